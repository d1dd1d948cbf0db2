#include "cluster/lab/record.h"

#include <algorithm>
#include <set>

#include "core/error.h"

namespace capstan {
namespace {

using R = RunRecord;

RecordField text(const char* name, std::string R::*member, size_t bytes, const char* sentence) {
  return {name, "", sentence, member, bytes};
}
RecordField whole(const char* name, int64_t R::*member, const char* unit, const char* sentence) {
  return {name, unit, sentence, member, 8};
}
RecordField real(const char* name, double R::*member, const char* unit, const char* sentence) {
  return {name, unit, sentence, member, 8};
}

void add_identity(std::vector<RecordField>& f) {
  f.push_back(text("run", &R::run, 96, "Name of the run: the key of the table."));
  f.push_back(text("sweep", &R::sweep, 64, "Sweep that the run belongs to."));
  f.push_back(text("kind", &R::kind, 16, "search, ladder, noise, trunk, cooldown, held-out, or single."));
  f.push_back(text("status", &R::status, 16, "done, diverged or failed; only done runs are fitted."));
  f.push_back(text("reason", &R::reason, 240, "Why the run is not done."));
  f.push_back(text("parent", &R::parent, 96, "Run whose checkpoint this one was branched from."));
  f.push_back(text("directory", &R::directory, 240, "Run directory, as seen from the sweep."));
  f.push_back(whole("attempts", &R::attempts, "starts", "How often it was started."));
  f.push_back(whole("exit_code", &R::exit_code, "", "Of the last start; 128 + signal where it was killed."));
}

void add_model(std::vector<RecordField>& f) {
  f.push_back(text("preset", &R::preset, 48, "Named model, where it is one."));
  f.push_back(whole("layers", &R::layers, "blocks", "Transformer blocks."));
  f.push_back(whole("width", &R::width, "", "Width of the residual stream."));
  f.push_back(whole("heads", &R::heads, "", "Attention heads."));
  f.push_back(whole("kv_heads", &R::kv_heads, "", "Key and value heads."));
  f.push_back(whole("head_size", &R::head_size, "", "Dims of a head."));
  f.push_back(whole("hidden", &R::hidden, "", "Width of the MLP."));
  f.push_back(whole("context", &R::context, "tokens", "Length of a sequence."));
  f.push_back(whole("vocabulary", &R::vocabulary, "tokens", "Size of the vocabulary, padding left out."));
  f.push_back(text("positions", &R::positions, 16, "How a token's place enters."));
  f.push_back(text("norm", &R::norm, 16, "Kind of norm."));
  f.push_back(text("activation", &R::activation, 16, "Activation of the MLP."));
  f.push_back(whole("tied", &R::tied, "", "1: the head is the token embedding."));
  f.push_back(whole("n_embedding", &R::n_embedding, "parameters", "Token embedding (and head, where tied)."));
  f.push_back(whole("n_positions", &R::n_positions, "parameters", "Learned positions."));
  f.push_back(whole("n_head", &R::n_head, "parameters", "Head, where it is not tied."));
  f.push_back(whole("n_blocks", &R::n_blocks, "parameters", "All the rest: the non-embedding parameters."));
  f.push_back(whole("n_total", &R::n_total, "parameters", "All parameters."));
}

void add_cost(std::vector<RecordField>& f) {
  const char* unit = "FLOP/token";
  f.push_back(real("flops_token_half", &R::flops_token_half, unit,
                   "From the plan, forward and backward, causal attention counted as the half it needs."));
  f.push_back(real("flops_token_whole", &R::flops_token_whole, unit, "From the plan, attention counted whole."));
  f.push_back(real("flops_token_executed", &R::flops_token_executed, unit,
                   "From the plan as replayed: with what the backward pass computes again."));
  f.push_back(real("flops_token_6n", &R::flops_token_6n, unit, "6 x all parameters."));
  f.push_back(real("flops_token_6n_blocks", &R::flops_token_6n_blocks, unit, "6 x non-embedding parameters."));
  f.push_back(real("flops_token_hoffmann", &R::flops_token_hoffmann, unit, "Hoffmann et al. 2022, appendix F."));
  f.push_back(real("flops_token_deepseek", &R::flops_token_deepseek, unit, "DeepSeek's M."));
  f.push_back(real("flops_half", &R::flops_half, "FLOP", "flops_token_half x tokens."));
  f.push_back(real("flops_whole", &R::flops_whole, "FLOP", "flops_token_whole x tokens."));
  f.push_back(real("flops_6nd", &R::flops_6nd, "FLOP", "6 x all parameters x tokens."));
}

void add_training(std::vector<RecordField>& f) {
  f.push_back(real("tokens", &R::tokens, "tokens", "Consumed, repetitions counted."));
  f.push_back(real("unique_tokens", &R::unique_tokens, "tokens", "Distinct ones among them."));
  f.push_back(real("epochs", &R::epochs, "epochs", "tokens / unique_tokens."));
  f.push_back(text("corpus", &R::corpus, 96, "Digest of the corpora."));
  f.push_back(text("tokenizer", &R::tokenizer, 48, "Hash of the tokenizer."));
  f.push_back(text("optimizer", &R::optimizer, 16, "Update rule."));
  f.push_back(real("learning_rate", &R::learning_rate, "", "Peak."));
  f.push_back(real("weight_decay", &R::weight_decay, "", "Decoupled."));
  f.push_back(real("beta1", &R::beta1, "", "Decay of the first moment."));
  f.push_back(real("beta2", &R::beta2, "", "Decay of the second moment."));
  f.push_back(real("epsilon", &R::epsilon, "", "Added to the root of the second moment."));
  f.push_back(real("clip", &R::clip, "", "Largest norm of the gradient; 0: none."));
  f.push_back(real("dropout", &R::dropout, "", "Probability."));
  f.push_back(text("schedule", &R::schedule, 16, "Course of the learning rate."));
  f.push_back(whole("warmup_steps", &R::warmup_steps, "steps", "Linear warm-up."));
  f.push_back(real("minimum_ratio", &R::minimum_ratio, "", "Last learning rate over the peak."));
  f.push_back(real("decay_fraction", &R::decay_fraction, "", "Share of the steps that wsd decays over."));
  f.push_back(whole("cooldown_step", &R::cooldown_step, "steps", "Where a cooldown began; -1: there is none."));
  f.push_back(whole("steps", &R::steps, "steps", "Steps done."));
  f.push_back(whole("global_batch", &R::global_batch, "sequences", "Of a step."));
  f.push_back(whole("batch_tokens", &R::batch_tokens, "tokens", "Of a step."));
  f.push_back(whole("seed", &R::seed, "", "Of initial weights and sample order."));
  f.push_back(text("precision", &R::precision, 8, "Type of activations."));
  f.push_back(text("reduction", &R::reduction, 8, "Order of sums over ranks."));
}

void add_outcome(std::vector<RecordField>& f) {
  f.push_back(real("loss", &R::loss, "nats/token", "On the validation split, at the end."));
  f.push_back(real("bits_per_byte", &R::bits_per_byte, "bits/byte", "The same, comparable across tokenizers."));
  f.push_back(real("train_loss", &R::train_loss, "nats/token", "Mean over the last twentieth of the steps."));
  f.push_back(whole("evaluation_samples", &R::evaluation_samples, "sequences", "Evaluated on; 0: the whole split."));
  f.push_back(
      real("noise_scale", &R::noise_scale, "tokens", "Gradient noise scale at the end, where it was measured."));
  f.push_back(text("version", &R::version, 64, "Of the program."));
  f.push_back(text("layout", &R::layout, 64, "Degrees of parallelism."));
  f.push_back(text("device", &R::device, 16, "Kernels."));
  f.push_back(whole("ranks", &R::ranks, "ranks", "Processes."));
  f.push_back(whole("threads", &R::threads, "threads", "Of each."));
  f.push_back(real("seconds", &R::seconds, "s", "From start to end, over all starts."));
  f.push_back(real("forecast_seconds", &R::forecast_seconds, "s", "What the sweep expected."));
  f.push_back(real("tokens_per_second", &R::tokens_per_second, "tokens/s", "Median over the steps."));
  f.push_back(real("finished_at", &R::finished_at, "s", "Since 1970, UTC."));
}

}  // namespace

const std::vector<RecordField>& record_fields() {
  static const std::vector<RecordField> fields = [] {
    std::vector<RecordField> f;
    add_identity(f);
    add_model(f);
    add_cost(f);
    add_training(f);
    add_outcome(f);
    return f;
  }();
  return fields;
}

void check_record(const RunRecord& record, const std::string& where) {
  if (record.run.empty()) throw Error::make(ExitCode::bad_data, "{}: a record without the name of its run", where);
  for (const RecordField& field : record_fields()) {
    const auto* member = std::get_if<std::string R::*>(&field.member);
    if (!member) continue;
    const std::string& value = record.*(*member);
    const bool control = std::any_of(value.begin(), value.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    if (control)
      throw Error::make(ExitCode::bad_data, "{}: {} holds control characters; a record's text has none", where,
                        field.name);
  }
  static const std::set<std::string> known = {"done", "diverged", "failed"};
  if (!known.contains(record.status))
    throw Error::make(ExitCode::bad_data, "{}: status is '{}'; wanted done, diverged or failed", where, record.status);
}

}  // namespace capstan
