#include "launch/data_feed.h"

#include <algorithm>
#include <type_traits>

namespace capstan {

DataFeed::DataFeed(CorpusStream& stream, int64_t share, const Mesh& mesh)
    : stream_(stream),
      share_(share),
      context_(stream.context()),
      rank_(mesh.data_rank()),
      runs_(local_runs({{context_}, DType::i32, with({}, Axis::cp, Shard(0))}, 0, mesh)) {
  const size_t count = static_cast<size_t>(share * context_);
  for (auto* field : {&tokens_, &targets_, &positions_, &documents_}) field->resize(count);
  weights_.resize(count);
}

SampleTally DataFeed::read_range(uint64_t first, int64_t count) {
  SampleFields fields;
  fields.set("tokens", tokens_.data()).set("targets", targets_.data()).set("positions", positions_.data());
  fields.set("document_ids", documents_.data()).set("loss_weights", weights_.data());
  return count > 0 ? stream_.fill(first, count, fields) : SampleTally{};
}

SampleTally DataFeed::read_share(uint64_t cursor) {
  return read_range(cursor + static_cast<uint64_t>(rank_) * static_cast<uint64_t>(share_), share_);
}

SampleTally DataFeed::read(uint64_t cursor, uint64_t global_batch) {
  const SampleTally tally = read_share(cursor);
  stream_.prefetch(cursor + global_batch + static_cast<uint64_t>(rank_) * static_cast<uint64_t>(share_), share_);
  return tally;
}

void DataFeed::place(Program& program, int64_t first, int64_t count, int64_t microbatch, int64_t index) const {
  const auto copy = [&](const char* name, const auto& field) {
    auto* to = program.write<std::decay_t<decltype(field[0])>>(name, index);
    for (int64_t sample = first; sample < first + count; ++sample)
      for (const Extent& run : runs_) to = std::copy_n(field.data() + sample * context_ + run.first, run.count, to);
    return to;
  };
  copy("input.tokens", tokens_), copy("input.targets", targets_);
  copy("input.positions", positions_), copy("input.document_ids", documents_);
  float* rest = copy("input.loss_weights", weights_);
  for (const Extent& run : runs_) rest = std::fill_n(rest, (microbatch - count) * run.count, 0.0f);
}

size_t DataFeed::bytes() const {
  return (tokens_.size() + targets_.size() + positions_.size() + documents_.size()) * sizeof(int32_t) +
         weights_.size() * sizeof(float);
}

}  // namespace capstan
