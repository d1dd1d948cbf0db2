#include "core/config/keys.h"

#include <algorithm>

namespace capstan {

namespace {

using namespace key_rows;

constexpr OnResume kFixed = OnResume::fixed;
constexpr OnResume kMayChange = OnResume::may_change;
constexpr double kLargestExtent = 16777216;  // 2^24: products of two extents stay far inside 63 bits

Key preset_row() {
  Key key;
  key.name = "model.preset";
  key.type = KeyType::text;
  key.sentence =
      "Named model whose settings are taken first; other model keys override it. See capstan config --presets.";
  key.on_resume = kMayChange;  // a name alone changes nothing: what it stands for is compared key by key
  key.get = [](const RunConfig& config) { return ConfigValue(config.model_preset); };
  key.set = [](RunConfig& config, const ConfigValue& value) { config.model_preset = std::get<std::string>(value); };
  return key;
}

Key recompute_row() {
  const std::vector<std::string> names = {"none", "selective", "full"};
  Key key;
  key.name = "layout.recompute";
  key.type = KeyType::choice_or_count;
  key.unit = "blocks";
  key.choices = names;
  key.range = between(0, 65536);
  key.sentence =
      "What the backward pass computes again instead of keeping: nothing, what is cheap, whole blocks, or that many "
      "whole blocks.";
  key.on_resume = kMayChange;
  key.get = [names](const RunConfig& config) {
    const RecomputeConfig& r = config.layout.recompute;
    if (r.kind == RecomputeConfig::Kind::layers) return ConfigValue(r.layers);
    return ConfigValue(names.at(static_cast<size_t>(r.kind)));
  };
  key.set = [names](RunConfig& config, const ConfigValue& value) {
    RecomputeConfig& r = config.layout.recompute;
    r = {};
    if (const auto* count = std::get_if<int64_t>(&value)) {
      r = {RecomputeConfig::Kind::layers, *count};
      return;
    }
    const auto found = std::find(names.begin(), names.end(), std::get<std::string>(value));
    r.kind = static_cast<RecomputeConfig::Kind>(found - names.begin());
  };
  return key;
}

Key steps_ahead_row() {
  Key key;
  key.name = "train.steps_ahead";
  key.type = KeyType::choice_or_count;
  key.unit = "steps";
  key.choices = {"auto"};
  key.range = between(0, 1);
  key.sentence =
      "Steps that are queued before the host takes the outcome of the one in front of them, so that a GPU does not "
      "wait "
      "for it; auto: 1 on a GPU, else 0. The same bits either way; with 1 a request to stop is met a step later.";
  key.on_resume = kMayChange;
  key.get = [](const RunConfig& config) {
    const int64_t ahead = config.train.steps_ahead;
    return ahead == TrainConfig::kStepsAheadAutomatic ? ConfigValue(std::string("auto")) : ConfigValue(ahead);
  };
  key.set = [](RunConfig& config, const ConfigValue& value) {
    const auto* count = std::get_if<int64_t>(&value);
    config.train.steps_ahead = count != nullptr ? *count : TrainConfig::kStepsAheadAutomatic;
  };
  return key;
}

void add_rotary_scaling_keys(std::vector<Key>& keys) {
  const auto m = [](auto field) { return in(&RunConfig::model, field); };
  using D = DecoderConfig;
  keys.push_back(choice("model.rotary_scaling", m(&D::rotary_scaling), {"none", "linear", "llama3", "yarn"}, kFixed,
                        "How rotary frequencies were stretched to a longer context."));
  keys.push_back(real("model.rotary_factor", m(&D::rotary_factor), "", at_least(1), kFixed,
                      "Rotary scaling: how much longer the context became."));
  keys.push_back(integer("model.rotary_original_context", m(&D::rotary_original_context), "tokens",
                         between(0, kLargestExtent), kFixed,
                         "Rotary scaling llama3 and yarn: the context before; 0 means context / rotary_factor."));
  keys.push_back(real("model.rotary_low", m(&D::rotary_low), "", above_up_to(0, 1e6), kFixed,
                      "Rotary scaling: low_freq_factor of llama3, beta_slow of yarn."));
  keys.push_back(real("model.rotary_high", m(&D::rotary_high), "", between(0, 1e6), kFixed,
                      "Rotary scaling: high_freq_factor of llama3 (0 means 4), beta_fast of yarn (0 means 32)."));
  keys.push_back(real("model.rotary_attention", m(&D::rotary_attention), "", between(0, 1e6), kFixed,
                      "Rotary scaling yarn: factor on queries and keys; 0 means 0.1 ln(rotary_factor) + 1."));
}

void add_norm_keys(std::vector<Key>& keys) {
  const auto m = [](auto field) { return in(&RunConfig::model, field); };
  using D = DecoderConfig;
  keys.push_back(choice("model.norm_placement", m(&D::norm_placement),
                        {"pre", "post", "parallel", "parallel_two", "deep"}, kFixed,
                        "Before the branches, after the sums (post; deep with DeepNorm's factors), or before attention "
                        "and MLP that run beside each other, with one norm or two."));
  keys.push_back(choice("model.final_norm", m(&D::final_norm), {"automatic", "off", "on"}, kFixed,
                        "A norm before the head; automatic: unless norm_placement is post or deep."));
  keys.push_back(
      boolean("model.embedding_norm", m(&D::embedding_norm), kFixed, "A norm of the embeddings (BLOOM, GLM-130B)."));
  keys.push_back(boolean("model.qk_norm", m(&D::qk_norm), kFixed,
                         "RMS norm of each head of queries and keys, before rotation (Qwen3)."));
  keys.push_back(real("model.deep_alpha", m(&D::deep_alpha), "", between(0, 1e6), kFixed,
                      "DeepNorm's factor on the residual stream; 0 means (2 x layers)^(1/4)."));
  keys.push_back(real("model.deep_beta", m(&D::deep_beta), "", between(0, 1e6), kFixed,
                      "DeepNorm's factor on initial values, output and MLP weights; 0 means (8 x layers)^(-1/4)."));
}

void add_bias_keys(std::vector<Key>& keys) {
  const auto m = [](auto field) { return in(&RunConfig::model, field); };
  using D = DecoderConfig;
  const auto toggle = [&](const char* name, Toggle D::*field, const char* sentence) {
    keys.push_back(choice(name, m(field), {"automatic", "off", "on"}, kFixed, sentence));
  };
  toggle("model.bias_qkv", &D::bias_qkv, "Biases of queries, keys and values; automatic: as model.bias.");
  toggle("model.bias_attention_output", &D::bias_attention_output,
         "Bias of attention's output; automatic: as model.bias.");
  toggle("model.bias_mlp", &D::bias_mlp, "Biases of the MLP; automatic: as model.bias.");
  toggle("model.bias_norm", &D::bias_norm, "Biases of layer norms; automatic: as model.bias.");
}

void add_embedding_keys(std::vector<Key>& keys) {
  const auto m = [](auto field) { return in(&RunConfig::model, field); };
  using D = DecoderConfig;
  keys.push_back(boolean("model.head_bias", m(&D::head_bias), kFixed, "A bias of the logits (GPT-J)."));
  keys.push_back(integer("model.embedding_width", m(&D::embedding_width), "", between(0, kLargestExtent), kFixed,
                         "Width of token embedding and head, projected to model.width and back (OPT-350M); 0 means "
                         "model.width, without projections."));
  keys.push_back(real("model.embedding_scale", m(&D::embedding_scale), "", between(0, 1e6), kFixed,
                      "Factor on token embeddings; 0 means sqrt(width) (XGLM)."));
  keys.push_back(real("model.logit_scale", m(&D::logit_scale), "", between(0, 1e6), kFixed,
                      "Factor on what the head reads; 0 means 1 / sqrt(width) (PaLM)."));
}

void add_attention_keys(std::vector<Key>& keys) {
  const auto m = [](auto field) { return in(&RunConfig::model, field); };
  using D = DecoderConfig;
  keys.push_back(real("model.attention_scale", m(&D::attention_scale), "", between(0, 1e6), kFixed,
                      "Factor on attention scores; 0 means 1 / sqrt(head size) (GPT-Neo: 1)."));
  keys.push_back(integer("model.window", m(&D::window), "tokens", between(0, kLargestExtent), kFixed,
                         "Sliding attention window; 0 means the whole context."));
  keys.push_back(integer("model.window_from", m(&D::window_from), "blocks", between(0, 65536), kFixed,
                         "Blocks before this one have no window (Qwen2)."));
  keys.push_back(integer("model.global_every", m(&D::global_every), "blocks", between(0, 65536), kFixed,
                         "One of so many blocks has no window (GPT-Neo: 2); 0 means that all have it."));
  keys.push_back(integer("model.global_first", m(&D::global_first), "blocks", between(0, 65535), kFixed,
                         "The first block of model.global_every that has no window."));
  keys.push_back(boolean("model.query_layer", m(&D::query_layer), kFixed,
                         "The last block takes its queries from a position embedding (PanGu-alpha)."));
}

void add_model_keys(std::vector<Key>& keys) {
  const auto m = [](auto field) { return in(&RunConfig::model, field); };
  using D = DecoderConfig;
  const Range extent = between(1, kLargestExtent);
  const Range extent_or_zero = between(0, kLargestExtent);
  keys.push_back(preset_row());
  keys.push_back(
      integer("model.layers", m(&D::layers), "blocks", between(1, 65536), kFixed, "Number of transformer blocks."));
  keys.push_back(integer("model.width", m(&D::width), "", extent, kFixed, "Width of the residual stream."));
  keys.push_back(integer("model.heads", m(&D::heads), "", extent, kFixed, "Attention heads per block."));
  keys.push_back(integer("model.kv_heads", m(&D::kv_heads), "", extent_or_zero, kFixed,
                         "Key and value heads, shared by groups of query heads; 0 means as many as heads."));
  keys.push_back(integer("model.head_size", m(&D::head_size), "", extent_or_zero, kFixed,
                         "Dims of one head; 0 means width / heads."));
  keys.push_back(integer("model.hidden", m(&D::hidden), "", extent_or_zero, kFixed,
                         "Width of the MLP; 0 means 4 x width, or 8/3 x width rounded up to a multiple of 64 when the "
                         "activation is gated."));
  keys.push_back(integer("model.context", m(&D::context), "tokens", extent, kMayChange,
                         "Length of a sequence; with learned positions it may not change in mid-run."));
  keys.push_back(integer("model.vocabulary", m(&D::vocabulary), "tokens", extent_or_zero, kFixed,
                         "Size of the vocabulary; 0 means that of the corpus's tokenizer."));
  keys.push_back(choice("model.positions", m(&D::positions),
                        {"none", "learned", "rotary", "alibi", "sinusoidal", "t5", "xl"}, kFixed,
                        "How a token's place enters: t5 is a learned bias by bucket of distance, xl the relative term "
                        "of Transformer-XL (docs/models.md)."));
  keys.push_back(integer("model.position_offset", m(&D::position_offset), "rows", between(0, 65536), kFixed,
                         "Learned and sinusoidal positions: token 0 takes this row (OPT, XGLM: 2)."));
  keys.push_back(
      real("model.rotary_base", m(&D::rotary_base), "", at_least(1), kFixed, "Base of the rotary frequencies."));
  keys.push_back(real("model.rotary_fraction", m(&D::rotary_fraction), "", above_up_to(0, 1), kFixed,
                      "Share of a head's dims that is rotated."));
  keys.push_back(boolean("model.rotary_interleaved", m(&D::rotary_interleaved), kFixed,
                         "Rotate dims (2i, 2i+1) as GPT-J does instead of (i, i + n/2)."));
  add_rotary_scaling_keys(keys);
  keys.push_back(integer("model.relative_buckets", m(&D::relative_buckets), "buckets", between(2, 65536), kFixed,
                         "Positions t5: rows of the table; half of them stand for one distance each."));
  keys.push_back(integer("model.relative_distance", m(&D::relative_distance), "tokens", between(2, kLargestExtent),
                         kFixed, "Positions t5: from this distance on all fall into the last bucket."));
  keys.push_back(choice("model.norm", m(&D::norm), {"layer", "rms"}, kFixed, "Layer norm or RMS norm."));
  add_norm_keys(keys);
  keys.push_back(real("model.norm_epsilon", m(&D::norm_epsilon), "", above_up_to(0, 1), kFixed,
                      "Added to the variance in a norm."));
  keys.push_back(choice("model.activation", m(&D::activation),
                        {"gelu", "gelu_tanh", "relu", "squared_relu", "swiglu", "geglu"}, kFixed,
                        "Activation of the MLP; gelu is the erf form; swiglu and geglu are gated."));
  keys.push_back(boolean("model.bias", m(&D::bias), kFixed, "Biases in linear layers and layer norms."));
  add_bias_keys(keys);
  keys.push_back(boolean("model.tied", m(&D::tied), kFixed, "The head is the token embedding."));
  add_embedding_keys(keys);
  add_attention_keys(keys);
  keys.push_back(real("model.init_std", m(&D::init_std), "", above_up_to(0, 10), kFixed,
                      "Standard deviation of the initial weights; residual projections are scaled down by "
                      "sqrt(2 x layers)."));
}

void add_data_keys(std::vector<Key>& keys) {
  keys.push_back(text_list("data.corpora", in(&RunConfig::data, &DataConfig::corpora), "directories", kMayChange,
                           "Corpora made by capstan corpus build; several are blended."));
  const auto d = [](auto field) { return in(&RunConfig::data, field); };
  using D = DataConfig;
  keys.push_back(number_list("data.weights", d(&D::weights), "", at_least(0), kMayChange,
                             "Share of each corpus in the samples, in any unit; empty means in proportion to their "
                             "tokens, so that all are read equally often."));
  keys.push_back(number_list("data.epochs", d(&D::epochs), "epochs", at_least(0), kMayChange,
                             "Instead of weights: how often each corpus is read in proportion to the others."));
  keys.push_back(number_list("data.max_epochs", d(&D::max_epochs), "epochs", at_least(0), kMayChange,
                             "How often a corpus is read at most in the whole run; what that frees goes to the others "
                             "by weight; empty or 0 means no cap."));
  keys.push_back(choice("data.packing", d(&D::packing), {"stream", "best-fit"}, kMayChange,
                        "How documents fill samples: one stream that is cut anywhere, or documents shorter than the "
                        "context whole, where they fit best."));
  keys.push_back(integer("data.block", d(&D::block), "tokens", between(0, kLargestExtent), kMayChange,
                         "Length of text that stays whole in the order of an epoch, a multiple of model.context; set "
                         "it when the context will grow in mid-run; 0 means one sample."));
  keys.push_back(
      boolean("data.document_mask", d(&D::document_mask), kFixed, "Attention and positions stay inside documents."));
  keys.push_back(choice("data.objective", d(&D::objective), {"causal", "prefix", "masked", "span-corruption"}, kFixed,
                        "What the model is asked about the text; the decoder is trained with causal."));
  keys.push_back(real("data.mask_rate", d(&D::mask_rate), "", above_up_to(0, 1), kFixed,
                      "Objective masked: share of the tokens that are asked for."));
  keys.push_back(choice("data.mask_units", d(&D::mask_units), {"token", "word", "span"}, kFixed,
                        "Objective masked: what is masked as one."));
  keys.push_back(
      boolean("data.mask_static", d(&D::mask_static), kFixed, "Objective masked: the same mask in every epoch."));
  keys.push_back(real("data.noise_density", d(&D::noise_density), "", above_up_to(0, 0.9), kFixed,
                      "Objective span-corruption: share of the tokens that are taken out."));
  keys.push_back(real("data.noise_span", d(&D::noise_span), "tokens", between(1, 1000), kFixed,
                      "Objective span-corruption: mean length of what is taken out at once."));
}

void add_layout_keys(std::vector<Key>& keys) {
  const auto l = [](auto field) { return in(&RunConfig::layout, field); };
  using L = LayoutConfig;
  const Range degree = between(1, 1048576);
  keys.push_back(integer("layout.dp", l(&L::dp), "ranks", between(0, 1048576), kMayChange,
                         "Data parallel degree; 0 means what the other axes leave of the world."));
  keys.push_back(integer("layout.pp", l(&L::pp), "ranks", degree, kMayChange, "Pipeline parallel degree."));
  keys.push_back(integer("layout.cp", l(&L::cp), "ranks", degree, kMayChange, "Context parallel degree."));
  keys.push_back(integer("layout.tp", l(&L::tp), "ranks", degree, kMayChange, "Tensor parallel degree."));
  keys.push_back(integer("layout.ep", l(&L::ep), "ranks", degree, kMayChange,
                         "Expert parallel degree; reserved, 1 in this version."));
  keys.push_back(integer("layout.zero", l(&L::zero), "", between(0, 3), kMayChange,
                         "What is sharded over the data ranks: 1 optimizer state, 2 gradients too, 3 parameters too."));
  keys.push_back(choice("layout.overlap", l(&L::overlap), {"auto", "on", "off"}, kMayChange,
                        "Reduce gradients and gather parameters on a thread beside the computation; auto: where data "
                        "ranks are on several hosts. Values are the same."));
  keys.push_back(integer("layout.zero_ranks", l(&L::zero_ranks), "ranks", between(0, 1048576), kMayChange,
                         "Hybrid sharding: the data ranks among which layout.zero shards, neighbours of each other; a "
                         "divisor of layout.dp. Groups of so many hold the same. 0 means all of layout.dp."));
  keys.push_back(boolean("layout.sequence_parallel", l(&L::sequence_parallel), kMayChange,
                         "Shard the residual stream by sequence over the tensor parallel ranks."));
  keys.push_back(text("layout.schedule", l(&L::schedule), "", kMayChange,
                      "Pipeline schedule: gpipe, 1f1b, interleaved, zero-bubble, or the path of a file with a table "
                      "(docs/parallel.md)."));
  keys.push_back(integer("layout.interleave", l(&L::interleave), "chunks", between(1, 1024), kMayChange,
                         "Model chunks per pipeline rank in an interleaved schedule."));
  keys.push_back(recompute_row());
}

void add_optimizer_keys(std::vector<Key>& keys) {
  const auto o = [](auto field) { return in(&RunConfig::optimizer, field); };
  using O = OptimizerConfig;
  keys.push_back(real("optimizer.learning_rate", o(&O::learning_rate), "", above_up_to(0, 1000), kMayChange,
                      "Peak learning rate of AdamW."));
  keys.push_back(real("optimizer.weight_decay", o(&O::weight_decay), "", between(0, 1000), kMayChange,
                      "Decoupled weight decay of matrices and embeddings; norms and biases have none."));
  keys.push_back(
      real("optimizer.beta1", o(&O::beta1), "", from_to_below(0, 1), kMayChange, "Decay of the first moment."));
  keys.push_back(
      real("optimizer.beta2", o(&O::beta2), "", from_to_below(0, 1), kMayChange, "Decay of the second moment."));
  keys.push_back(real("optimizer.epsilon", o(&O::epsilon), "", above_up_to(0, 1), kMayChange,
                      "Added to the root of the second moment."));
  keys.push_back(real("optimizer.clip", o(&O::clip), "", at_least(0), kMayChange,
                      "Largest global norm of the gradient; 0 means no clipping."));
}

void add_schedule_keys(std::vector<Key>& keys) {
  const auto s = [](auto field) { return in(&RunConfig::schedule, field); };
  using S = ScheduleConfig;
  keys.push_back(choice("schedule.kind", s(&S::kind), {"cosine", "linear", "constant", "inverse_sqrt", "wsd"},
                        kMayChange, "Course of the learning rate after warm-up; wsd is stable, then linear decay."));
  keys.push_back(integer("schedule.warmup_steps", s(&S::warmup_steps), "steps", at_least(0), kMayChange,
                         "Steps of linear warm-up."));
  keys.push_back(real("schedule.minimum_ratio", s(&S::minimum_ratio), "", between(0, 1), kMayChange,
                      "Last learning rate as a share of the peak (cosine, linear, wsd)."));
  keys.push_back(real("schedule.decay_fraction", s(&S::decay_fraction), "", between(0, 1), kMayChange,
                      "Share of the steps that wsd spends decaying."));
}

void add_train_keys(std::vector<Key>& keys) {
  const auto t = [](auto field) { return in(&RunConfig::train, field); };
  using T = TrainConfig;
  keys.push_back(
      integer("train.steps", t(&T::steps), "steps", at_least(1), kMayChange, "Optimizer steps of the whole run."));
  keys.push_back(integer("train.global_batch", t(&T::global_batch), "sequences", between(1, kLargestExtent), kMayChange,
                         "Sequences per step over all ranks."));
  keys.push_back(integer("train.microbatch", t(&T::microbatch), "sequences", between(0, kLargestExtent), kMayChange,
                         "Sequences a rank takes through the model at once; 0 means global_batch / dp."));
  keys.push_back(
      choice("train.precision", t(&T::precision), {"fp64", "fp32", "bf16", "fp16"}, kFixed,
             "Type of activations and working weights; masters and gradient sums are fp32 (fp64 for fp64)."));
  keys.push_back(real("train.initial_loss_scale", t(&T::initial_loss_scale), "", between(1, 0x1p30), kMayChange,
                      "fp16: what multiplies the loss at first, so that small gradients do not vanish; a power of "
                      "two. A resumed run goes on with the scale it had."));
  keys.push_back(real("train.minimum_loss_scale", t(&T::minimum_loss_scale), "", between(1, 0x1p30), kMayChange,
                      "fp16: gradients that are not finite halve the scale down to this; below it they count as bad "
                      "steps."));
  keys.push_back(integer("train.loss_scale_window", t(&T::loss_scale_window), "steps", at_least(1), kMayChange,
                         "fp16: good steps in a row after which the loss scale is doubled."));
  keys.push_back(choice("train.reduction", t(&T::reduction), {"fast", "ordered"}, kMayChange,
                        "Order of gradient sums; ordered gives the same bits on 1, 2, 4, ... data ranks."));
  keys.push_back(choice("train.device", t(&T::device), {"auto", "cpu", "cuda", "reference"}, kMayChange,
                        "What runs the plan; auto is a GPU where every rank has one, else the CPU; reference is the "
                        "plain oracle."));
  keys.push_back(boolean("train.tf32", t(&T::tf32), kMayChange,
                         "GPU, fp32: products may cut their operands to TF32's 10 bits of mantissa."));
  keys.push_back(boolean("train.capture", t(&T::capture), kMayChange,
                         "GPU: replay what runs without a wait as one CUDA graph; the same bits either way."));
  keys.push_back(steps_ahead_row());
  keys.push_back(integer("train.seed", t(&T::seed), "", at_least(0), kFixed,
                         "Seed of initial weights, sample order and dropout."));
  keys.push_back(real("train.dropout", t(&T::dropout), "", from_to_below(0, 1), kMayChange,
                      "Dropout of embeddings, attention weights and residual branches."));
  keys.push_back(integer("train.evaluate_every", t(&T::evaluate_every), "steps", at_least(0), kMayChange,
                         "Steps between evaluations on the validation split; 0 means only at the end."));
  keys.push_back(integer("train.evaluate_samples", t(&T::evaluate_samples), "sequences", at_least(0), kMayChange,
                         "Validation sequences per evaluation; 0 means all of them."));
  keys.push_back(integer("train.maximum_bad_steps", t(&T::maximum_bad_steps), "steps", at_least(1), kMayChange,
                         "Steps in a row with a loss or norm that is not finite before the run gives up."));
  keys.push_back(integer("train.threads", t(&T::threads), "threads", between(0, 4096), kMayChange,
                         "Threads per rank; 0 means the node's cores divided by its ranks."));
  keys.push_back(real("train.hang_seconds", t(&T::hang_seconds), "seconds", at_least(0), kMayChange,
                      "Longest that nothing may move before the job is ended with code 76; shorter limits are learnt "
                      "from the run; 0 means no limit."));
  keys.push_back(real("train.start_seconds", t(&T::start_seconds), "seconds", at_least(0), kMayChange,
                      "Longest that ranks may take to come and find each other before the job is ended with code 76; "
                      "0 means no limit."));
  keys.push_back(
      real("train.host_memory_gib", t(&T::host_memory_gib), "GiB", at_least(0), kMayChange,
           "Memory of a host that the ranks on it may take together; a run that needs more is refused before "
           "it takes any. 0 means what the host and the limits of control groups have left."));
  keys.push_back(integer("train.log_every", t(&T::log_every), "steps", at_least(1), kMayChange,
                         "Steps between progress lines; metrics.jsonl has every step."));
}

void add_run_keys(std::vector<Key>& keys) {
  const auto c = [](auto field) { return in(&RunConfig::checkpoint, field); };
  keys.push_back(integer("checkpoint.every", c(&CheckpointConfig::every), "steps", at_least(0), kMayChange,
                         "Steps between checkpoints; 0 means only at the end and on request."));
  keys.push_back(integer("checkpoint.keep", c(&CheckpointConfig::keep), "checkpoints", at_least(2), kMayChange,
                         "Checkpoints kept; the oldest is removed after a new one is complete."));
  keys.push_back(
      text("run.dir", in(&RunConfig::run, &RunSection::dir), "directory", kMayChange,
           "Run directory; when empty, runs/ and the name of the config file. The config.toml of a run directory means "
           "that directory, wherever it lies by now, unless the command line names another."));
  keys.push_back(text("run.records", in(&RunConfig::run, &RunSection::records), "file", kMayChange,
                      "Table (HDF5) to which the run adds its record when it ends; when empty, records.h5 in the run "
                      "directory; none: no record."));
}

std::vector<Key> make_keys() {
  std::vector<Key> keys;
  add_model_keys(keys);
  add_data_keys(keys);
  add_layout_keys(keys);
  add_optimizer_keys(keys);
  add_schedule_keys(keys);
  add_train_keys(keys);
  add_run_keys(keys);
  return keys;
}

}  // namespace

const std::vector<Key>& config_keys() {
  static const std::vector<Key> keys = make_keys();
  return keys;
}

const Key* find_config_key(std::string_view name) {
  for (const Key& key : config_keys())
    if (key.name == name) return &key;
  return nullptr;
}

std::vector<std::string> config_sections() {
  std::vector<std::string> sections;
  for (const Key& key : config_keys())
    if (sections.empty() || sections.back() != key.section()) sections.push_back(key.section());
  return sections;
}

}  // namespace capstan
