#include "launch/run_record.h"

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>

#include "cluster/lab/counting.h"
#include "core/config/config_reader.h"
#include "core/config/keys.h"
#include "core/error.h"
#include "core/hash.h"
#include "io/file_system.h"
#include "io/run_log.h"

namespace capstan {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr uint64_t kMostConfig = 1 << 20, kMostData = uint64_t{64} << 20, kMostBinary = uint64_t{1} << 32;

std::string choice_of(const RunConfig& config, const char* key) {
  return std::get<std::string>(find_config_key(key)->get(config));
}

void fill_model(RunRecord& r, const DecoderConfig& m) {
  r.layers = m.layers, r.width = m.width, r.heads = m.heads, r.kv_heads = m.kv(), r.head_size = m.head();
  r.hidden = m.mlp(), r.context = m.context, r.vocabulary = m.vocabulary, r.tied = m.tied ? 1 : 0;
  if (m.vocabulary == 0) return;
  const ParameterParts parts = parameter_parts(m);
  r.n_embedding = parts.embedding, r.n_positions = parts.positions, r.n_head = parts.head, r.n_blocks = parts.blocks;
  r.n_total = parts.total();
  const PlanCost cost = plan_cost(m);
  r.flops_token_half = cost.half, r.flops_token_whole = cost.whole, r.flops_token_executed = cost.executed;
  r.flops_token_6n = 6.0 * static_cast<double>(r.n_total);
  r.flops_token_6n_blocks = 6.0 * static_cast<double>(r.n_blocks);
  r.flops_token_hoffmann = hoffmann_cost(m), r.flops_token_deepseek = deepseek_cost(m);
}

void fill_training(RunRecord& r, const RunConfig& c) {
  r.learning_rate = c.optimizer.learning_rate, r.weight_decay = c.optimizer.weight_decay;
  r.beta1 = c.optimizer.beta1, r.beta2 = c.optimizer.beta2, r.epsilon = c.optimizer.epsilon, r.clip = c.optimizer.clip;
  r.dropout = c.train.dropout, r.warmup_steps = c.schedule.warmup_steps, r.seed = c.train.seed;
  r.minimum_ratio = c.schedule.minimum_ratio, r.schedule = choice_of(c, "schedule.kind");
  if (c.schedule.kind == ScheduleConfig::Kind::wsd) {
    r.decay_fraction = c.schedule.decay_fraction;
    r.cooldown_step = c.train.steps - std::llround(c.schedule.decay_fraction * static_cast<double>(c.train.steps));
  }
  r.global_batch = c.train.global_batch, r.batch_tokens = c.train.global_batch * c.model.context;
  r.precision = choice_of(c, "train.precision"), r.reduction = choice_of(c, "train.reduction");
  r.device = choice_of(c, "train.device"), r.evaluation_samples = c.train.evaluate_samples;
  r.threads = c.train.threads;
  const LayoutConfig& l = c.layout;
  r.ranks = static_cast<int64_t>(std::max(l.dp, 1)) * l.pp * l.cp * l.tp;
  r.layout = fmt::format("dp {} pp {} cp {} tp {} ep {} zero {}", std::max(l.dp, 1), l.pp, l.cp, l.tp, l.ep, l.zero);
  if (l.zero_ranks > 0) r.layout += fmt::format(" zero_ranks {}", l.zero_ranks);
}

const std::vector<double>* column(const Metrics& metrics, const char* name) {
  const auto found = metrics.columns.find(name);
  return found == metrics.columns.end() || found->second.empty() ? nullptr : &found->second;
}

double last_known(const std::vector<double>* values) {
  for (size_t i = values ? values->size() : 0; i > 0; --i)
    if (std::isfinite((*values)[i - 1])) return (*values)[i - 1];
  return RunRecord::kUnknown;
}

void fill_outcome(RunRecord& r, const Metrics& metrics) {
  const auto *steps = column(metrics, "step"), *losses = column(metrics, "loss");
  if (!steps || !losses) return;
  r.steps = std::llround(steps->back());
  r.tokens = last_known(column(metrics, "tokens"));
  r.loss = last_known(column(metrics, "validation_loss"));
  r.bits_per_byte = last_known(column(metrics, "validation_bits_per_byte"));
  r.noise_scale = last_known(column(metrics, "noise_scale"));
  const size_t last = std::max<size_t>(1, losses->size() / 20);
  double sum = 0;
  for (size_t i = losses->size() - last; i < losses->size(); ++i) sum += (*losses)[i] / static_cast<double>(last);
  r.train_loss = sum;
  if (const auto* rates = column(metrics, "tokens_per_second")) {
    std::vector<double> sorted = *rates;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
    r.tokens_per_second = sorted[sorted.size() / 2];
  }
  if (const auto* times = column(metrics, "step_seconds"); times && !std::isfinite(r.seconds)) {
    r.seconds = 0;
    for (const double t : *times) r.seconds += std::isfinite(t) ? t : 0;
  }
  r.flops_half = r.flops_token_half * r.tokens, r.flops_whole = r.flops_token_whole * r.tokens;
  r.flops_6nd = r.flops_token_6n * r.tokens;
}

/// Distinct tokens and digests, from what the run says it read; a run without that file has read at least its tokens.
void fill_data(RunRecord& r, const fs::path& path) {
  std::error_code failure;
  if (!fs::exists(path, failure)) return;
  try {
    const json::value value = json::parse(read_whole_file(path, kMostData));
    std::string digests;
    double unique = 0;
    for (const json::value& corpus : value.at("corpora").as_array()) {
      unique += std::min(corpus.at("tokens_read").to_number<double>(), corpus.at("tokens").to_number<double>());
      digests += std::string(corpus.at("digest").as_string());
    }
    const bool one = value.at("corpora").as_array().size() == 1;
    r.corpus = one ? digests : digest_of(digests);
    r.unique_tokens = std::min(unique, r.tokens);
    r.epochs = r.tokens / r.unique_tokens;
  } catch (const std::exception& error) {
    throw Error::make(ExitCode::bad_data, "{}: this is not what capstan train writes ({})", path.string(),
                      error.what());
  }
}

void judge(RunRecord& r) {
  if (!r.done()) return;
  const double uniform = std::log(static_cast<double>(std::max<int64_t>(r.vocabulary, 2)));
  if (!std::isfinite(r.loss))
    r.status = "diverged", r.reason = "it left no validation loss";
  else if (r.loss > 1.05 * uniform)
    r.status = "diverged",
    r.reason = fmt::format("its loss of {:.3g} is worse than guessing ({:.3g})", r.loss, uniform);
}

}  // namespace

void fill_from_config(RunRecord& record, const RunConfig& config) {
  record.preset = config.model_preset;
  record.positions = choice_of(config, "model.positions"), record.norm = choice_of(config, "model.norm");
  record.activation = choice_of(config, "model.activation");
  fill_model(record, config.model);
  fill_training(record, config);
}

std::string binary_version() {
  std::string digest = "unknown";
  try {
    digest = digest_of(read_whole_file(fs::read_symlink("/proc/self/exe"), kMostBinary)).substr(0, 16);
  } catch (const std::exception&) {  // a file system that does not let us look
  }
  return fmt::format("capstan {} binary {}", CAPSTAN_VERSION, digest);
}

RunRecord record_of_run(const fs::path& directory, RunRecord known) {
  const fs::path file = directory / "config.toml";
  const RunConfig config = parse_run_config(read_whole_file(file, kMostConfig), file.string());
  fill_from_config(known, config);
  if (known.run.empty()) known.run = fs::path(config.run.dir).filename().string();
  if (known.kind.empty()) known.kind = "single";
  if (known.directory.empty()) known.directory = directory.string();
  fill_outcome(known, read_metrics(directory / "metrics.jsonl"));
  fill_data(known, directory / "data.json");
  if (known.done() && known.steps < config.train.steps) {
    known.status = "failed";
    known.reason = fmt::format("it stands at step {} of {}", known.steps, config.train.steps);
  }
  judge(known);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  known.finished_at = static_cast<double>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
  return known;
}

}  // namespace capstan
