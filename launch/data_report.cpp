#include "launch/data_report.h"

#include <fmt/format.h>

#include "io/json_events.h"

namespace capstan {

StreamOptions stream_options(const RunConfig& config) {
  const DataConfig& data = config.data;
  StreamOptions options;
  options.packing = data.packing == DataConfig::Packing::best_fit ? Packing::best_fit : Packing::stream;
  options.block = static_cast<uint64_t>(data.block);
  options.blend = {data.weights, data.epochs, data.max_epochs, 0};
  return options;
}

std::shared_ptr<const Objective> training_objective(const RunConfig& config) {
  return std::make_shared<CausalObjective>(config.data.document_mask);
}

std::vector<std::string> blend_lines(const CorpusStream& stream, uint64_t now, uint64_t then) {
  const std::vector<SourceReport> read = stream.report(now), planned = stream.report(then > 0 ? then : now);
  std::vector<std::string> lines;
  for (size_t s = 0; s < read.size(); ++s) {
    const SourceReport& row = read[s];
    std::string line = fmt::format("{}: {:.2f}% of the samples; {} documents, {} tokens, {} samples an epoch; ",
                                   row.name, 100.0 * row.share, row.documents, row.tokens, row.samples_per_epoch);
    if (then == 0 || now > 0) line += fmt::format("{:.3f} epochs read", row.epochs_read);
    if (then > 0) line += fmt::format("{}{:.3f} epochs at the end", now > 0 ? ", " : "", planned[s].epochs_read);
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string data_json(const CorpusStream& stream, uint64_t step, uint64_t now, uint64_t then, uint64_t blank_tokens) {
  const std::vector<SourceReport> read = stream.report(now), planned = stream.report(then);
  std::string corpora;
  for (size_t s = 0; s < read.size(); ++s) {
    const SourceReport& row = read[s];
    corpora += fmt::format(
        "{}\n  {{\"directory\":{},\"digest\":{},\"share\":{},\"documents\":{},\"tokens\":{},\"samples_per_epoch\":{},"
        "\"samples_read\":{},\"tokens_read\":{},\"epochs_read\":{},\"documents_read\":{:.0f},\"samples_planned\":{},"
        "\"epochs_planned\":{}}}",
        s == 0 ? "" : ",", json_quote(row.name), json_quote(row.corpus), row.share, row.documents, row.tokens,
        row.samples_per_epoch, row.samples_read, row.tokens_read, row.epochs_read,
        row.epochs_read * static_cast<double>(row.documents), planned[s].samples_read, planned[s].epochs_read);
  }
  return fmt::format(
      "{{\"step\":{},\"samples\":{},\"samples_planned\":{},\"blank_tokens\":{},\n \"corpora\":[{}],\n "
      "\"ledger\":{}}}\n",
      step, now, then, blank_tokens, corpora, stream.ledger().to_json());
}

}  // namespace capstan
