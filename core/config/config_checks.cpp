#include "core/config/config_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/config/config_mistakes.h"
#include "core/config/nearest_name.h"
#include "core/error.h"
#include "core/schedule.h"

namespace capstan {

namespace {

using Conflicts = std::vector<Conflict>;

/// A conflict with a fixed text. (Assigned, not moved in: gcc 12 warns of what it inlines there, GCC bug 105329.)
void refuse(Conflicts& out, std::vector<std::string> keys, std::string_view why) {
  Conflict& conflict = out.emplace_back();
  conflict.keys = std::move(keys);
  conflict.message = why;
}

/// The divisors of `whole` on both sides of `part`, for "heads must divide width; nearest: 4 or 6".
std::string nearest_divisors(int64_t whole, int64_t part) {
  int64_t below = 0, above = 0;
  const auto consider = [&](int64_t d) {
    if (d <= part && d > below) below = d;
    if (d >= part && (above == 0 || d < above)) above = d;
  };
  for (int64_t d = 1; d * d <= whole; ++d)
    if (whole % d == 0) consider(d), consider(whole / d);
  return below && above ? fmt::format("{} or {}", below, above) : fmt::format("{}", below ? below : above);
}

bool power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

void check_heads(const DecoderConfig& m, Conflicts& out) {
  if (m.head_size == 0 && m.width % m.heads != 0)
    out.push_back({{"model.heads", "model.width"},
                   fmt::format("heads must divide width, but {} does not divide {}; nearest: {} heads, or set "
                               "model.head_size",
                               m.heads, m.width, nearest_divisors(m.width, m.heads))});
  if (m.heads % m.kv() != 0)
    out.push_back({{"model.kv_heads", "model.heads"},
                   fmt::format("kv_heads must divide heads, but {} does not divide {}; nearest: {}", m.kv(), m.heads,
                               nearest_divisors(m.heads, m.kv()))});
}

void check_positions(const DecoderConfig& m, Conflicts& out) {
  const int64_t head = m.head();
  if (m.positions != Positions::rotary || head < 1) return;
  const double rotated = static_cast<double>(head) * m.rotary_fraction;
  const int64_t dims = std::llround(rotated);
  if (std::abs(rotated - static_cast<double>(dims)) > 1e-9 || dims % 2 != 0 || dims < 2)
    out.push_back({{"model.positions", "model.heads", "model.head_size", "model.width", "model.rotary_fraction"},
                   fmt::format("rotary positions turn dims in pairs, but a head of {} dims times rotary_fraction {} is "
                               "{} dims; choose heads, head_size or rotary_fraction so that it is even",
                               head, m.rotary_fraction, rotated)});
}

/// A setting that only counts beside another one, and is not at its default.
void check_belongs(bool set, bool belongs, const char* key, const char* to, const char* wanted, Conflicts& out) {
  if (set && !belongs) out.push_back({{key, to}, fmt::format("is only read when {} is {}; leave it out", to, wanted)});
}

void check_rotary_scaling(const DecoderConfig& m, Conflicts& out) {
  const RotaryScaling kind = m.rotary_scaling;
  const bool scaled = kind != RotaryScaling::none,
             ranged = kind == RotaryScaling::llama3 || kind == RotaryScaling::yarn;
  check_belongs(scaled, m.positions == Positions::rotary, "model.rotary_scaling", "model.positions", "rotary", out);
  check_belongs(m.rotary_factor != 1.0, scaled, "model.rotary_factor", "model.rotary_scaling", "linear, llama3 or yarn",
                out);
  check_belongs(m.rotary_original_context != 0, ranged, "model.rotary_original_context", "model.rotary_scaling",
                "llama3 or yarn", out);
  check_belongs(m.rotary_attention != 0.0, kind == RotaryScaling::yarn, "model.rotary_attention",
                "model.rotary_scaling", "yarn", out);
  if (ranged && m.rotary_low >= m.high_frequency())
    out.push_back({{"model.rotary_low", "model.rotary_high"},
                   fmt::format("rotary_low must be below rotary_high, but {} is not below {}", m.rotary_low,
                               m.high_frequency())});
  if (ranged && m.original_context() < 1)
    out.push_back({{"model.rotary_factor", "model.context"},
                   fmt::format("context {} / rotary_factor {} leaves no tokens; set model.rotary_original_context",
                               m.context, m.rotary_factor)});
}

/// Switches of families that go together.
void check_switches(const DecoderConfig& m, Conflicts& out) {
  check_belongs(m.position_offset != 0, m.positions == Positions::learned || m.positions == Positions::sinusoidal,
                "model.position_offset", "model.positions", "learned or sinusoidal", out);
  check_belongs(m.deep_alpha != 0.0, m.norm_placement == NormPlacement::deep, "model.deep_alpha",
                "model.norm_placement", "deep", out);
  check_belongs(m.deep_beta != 0.0, m.norm_placement == NormPlacement::deep, "model.deep_beta", "model.norm_placement",
                "deep", out);
  check_belongs(m.global_first != 0, m.global_every > 0, "model.global_first", "model.global_every", "above 0", out);
  check_belongs(m.global_every != 0, m.window > 0, "model.global_every", "model.window", "above 0", out);
  check_belongs(m.window_from != 0, m.window > 0, "model.window_from", "model.window", "above 0", out);
  if (m.global_every > 0 && m.global_first >= m.global_every)
    out.push_back({{"model.global_first", "model.global_every"},
                   fmt::format("must be below global_every, but {} is not below {}", m.global_first, m.global_every)});
  if (m.query_layer && m.norm_placement != NormPlacement::pre)
    refuse(out, {"model.query_layer", "model.norm_placement"},
           "a query layer stands behind blocks with norms before their branches; set model.norm_placement = \"pre\"");
  if (m.positions == Positions::t5 && (m.relative_buckets % 2 != 0 || m.relative_distance <= m.relative_buckets / 2))
    out.push_back({{"model.relative_buckets", "model.relative_distance"},
                   fmt::format("half of the buckets stand for one distance each and the others reach to "
                               "relative_distance, so buckets must be even and their half below it; got {} and {}",
                               m.relative_buckets, m.relative_distance)});
  if ((m.positions == Positions::sinusoidal || m.positions == Positions::xl) && (m.width % 2 != 0 || m.width < 4))
    out.push_back({{"model.width", "model.positions"},
                   fmt::format("waves are sines and cosines in equal numbers, so width must be even and at least 4, "
                               "got {}",
                               m.width)});
}

/// Whether `tp` ranks can divide the model: whole heads, whole columns of the MLP, and for key/value heads either whole
/// ones or one that several ranks read.
bool tensor_parallel_fits(const RunConfig& c, int64_t tp) {
  const DecoderConfig& m = c.model;
  return m.heads % tp == 0 && (m.kv() % tp == 0 || tp % m.kv() == 0) && m.mlp() % tp == 0 &&
         (!c.layout.sequence_parallel || m.context % tp == 0);
}

void check_tensor_parallel(const RunConfig& c, Conflicts& out) {
  const DecoderConfig& m = c.model;
  const int64_t tp = c.layout.tp;
  if (tp < 1 || m.heads < 1 || m.kv() < 1 || m.width < 1 || tensor_parallel_fits(c, tp)) return;
  int64_t below = 1, above = 0;
  for (int64_t degree = 2; degree <= m.heads; ++degree) {
    if (!tensor_parallel_fits(c, degree)) continue;
    if (degree < tp) below = degree;
    if (degree > tp && above == 0) above = degree;
  }
  out.push_back(
      {{"layout.tp", "model.heads", "model.kv_heads", "model.hidden", "model.width", "model.context"},
       fmt::format("tensor parallelism divides heads, key/value heads (or shares each among ranks) and the MLP{}, but "
                   "tp {} does not fit {} heads, {} key/value heads and an MLP of {}{}; nearest: {}",
                   c.layout.sequence_parallel ? ", and sequence parallelism the context" : "", tp, m.heads, m.kv(),
                   m.mlp(), c.layout.sequence_parallel ? fmt::format(", context {}", m.context) : "",
                   above ? fmt::format("{} or {}", below, above) : fmt::format("{}", below))});
}

/// The axis is reserved: there are no experts to divide.
void check_expert_parallel(const RunConfig& c, Conflicts& out) {
  if (c.layout.ep != 1)
    out.push_back({{"layout.ep"},
                   fmt::format("expert parallelism divides the experts of a mixture-of-experts model, and such models "
                               "are not in this version: wanted 1, got {}; data, tensor, pipeline and context "
                               "parallelism are available (leave layout.ep out and start more ranks)",
                               c.layout.ep)});
}

/// The data ranks are so many groups, each of which holds all state.
void check_hybrid(const LayoutConfig& l, Conflicts& out) {
  if (l.dp == 0 || l.zero_ranks == 0 || l.dp % l.zero_ranks == 0) return;
  out.push_back({{"layout.zero_ranks", "layout.dp"},
                 fmt::format("the data ranks form groups of zero_ranks, so it must divide dp, but {} does not divide "
                             "{}; nearest: {}",
                             l.zero_ranks, l.dp, nearest_divisors(l.dp, l.zero_ranks))});
}

/// Whether an interleaved schedule of so many stages can have this batch; with dp unknown, on any dp.
bool interleaving_fits_batch(const RunConfig& c, int64_t pp) {
  const int64_t pass = std::max<int64_t>(c.train.microbatch, 1) * std::max(c.layout.dp, 1);
  return c.train.global_batch % (pass * pp) == 0;
}

/// As many stages, and chunks on each, as there are layers and the batch and the schedule allow.
std::string nearest_pipeline(const RunConfig& c) {
  const LayoutConfig& l = c.layout;
  const int64_t pp = std::min<int64_t>(l.pp, c.model.layers);
  const auto kind = schedule_kind(l.schedule);
  const bool interleaves = (!kind || kind == ScheduleKind::interleaved) && interleaving_fits_batch(c, pp);
  const int64_t chunks = interleaves ? std::min<int64_t>(l.interleave, c.model.layers / pp) : 1;
  std::string text;
  if (pp != l.pp) text = fmt::format("layout.pp = {}", pp);
  if (chunks != l.interleave) text += fmt::format("{}layout.interleave = {}", text.empty() ? "" : " and ", chunks);
  return text;
}

void check_schedule_name(const std::string& schedule, Conflicts& out) {
  if (schedule_kind(schedule) || schedule.find_first_of("/.") != std::string::npos) return;
  const std::string near = nearest_name(schedule, {"gpipe", "1f1b", "interleaved", "zero-bubble"});
  out.push_back({{"layout.schedule"},
                 fmt::format("wanted gpipe, 1f1b, interleaved, zero-bubble or the path of a file with a table, got "
                             "\"{}\"; {}a file of that name is \"./{}\"",
                             schedule, near.empty() ? "" : fmt::format("did you mean {}? ", near), schedule)});
}

/// Every chunk of a pipeline has a layer.
void check_pipeline(const RunConfig& c, Conflicts& out) {
  const LayoutConfig& l = c.layout;
  const std::optional<ScheduleKind> kind = schedule_kind(l.schedule);
  check_schedule_name(l.schedule, out);
  if (l.interleave > 1 && kind && kind != ScheduleKind::interleaved)
    out.push_back({{"layout.interleave", "layout.schedule"},
                   fmt::format("{} chunks per rank need layout.schedule = \"interleaved\"", l.interleave)});
  const int64_t chunks = int64_t{l.pp} * (l.pp > 1 ? l.interleave : 1);
  if (chunks > c.model.layers)
    out.push_back({{"layout.pp", "layout.interleave", "model.layers"},
                   fmt::format("{} stages{} need as many layers at least, but the model has {}; nearest: {}", l.pp,
                               l.interleave > 1 ? fmt::format(" of {} chunks", l.interleave) : "", c.model.layers,
                               nearest_pipeline(c))});
}

/// Two chunks of the context for each rank of cp; sequence parallelism divides what a rank has.
void check_context_parallel(const RunConfig& c, Conflicts& out) {
  const int64_t cp = c.layout.cp, context = c.model.context;
  const int64_t divided = c.layout.sequence_parallel ? std::max(1, c.layout.tp) : 1;
  const int64_t unit = std::lcm(2 * cp, cp * divided);
  if (cp < 2 || context < 1 || context % unit == 0) return;
  const int64_t below = context / unit * unit;
  out.push_back(
      {{"layout.cp", "model.context", "layout.tp", "layout.sequence_parallel"},
       fmt::format("context parallelism gives each rank two chunks of the context{}, so cp {} needs a multiple "
                   "of {}, but model.context is {}; nearest: {}{}",
                   divided > 1 ? ", which sequence parallelism divides further" : "", cp, unit, context,
                   below > 0 ? fmt::format("{} or ", below) : "", below + unit)});
}

void check_layout(const RunConfig& c, Conflicts& out) {
  check_pipeline(c, out);
  check_context_parallel(c, out);
  check_expert_parallel(c, out);
  check_hybrid(c.layout, out);
  check_tensor_parallel(c, out);
  if (c.layout.sequence_parallel && c.layout.tp == 1)
    refuse(out, {"layout.sequence_parallel", "layout.tp"},
           "sequence parallelism shards over the tensor parallel ranks, but layout.tp is 1; set it to false");
  if (c.layout.recompute.kind == RecomputeConfig::Kind::layers && c.layout.recompute.layers > c.model.layers)
    out.push_back({{"layout.recompute", "model.layers"},
                   fmt::format("the model has {} blocks, but {} are to be recomputed; use \"full\" for all",
                               c.model.layers, c.layout.recompute.layers)});
}

/// Another factor than a power of two would round every gradient.
void check_loss_scale(const TrainConfig& train, Conflicts& out) {
  const std::pair<const char*, double> scales[] = {{"train.initial_loss_scale", train.initial_loss_scale},
                                                   {"train.minimum_loss_scale", train.minimum_loss_scale}};
  for (const auto& [key, scale] : scales) {
    int exponent = 0;
    if (std::frexp(scale, &exponent) != 0.5)
      out.push_back({{key},
                     fmt::format("wanted a power of two, got {}; nearest: {} or {}", scale, std::ldexp(0.5, exponent),
                                 std::ldexp(1.0, exponent))});
  }
  if (train.minimum_loss_scale > train.initial_loss_scale)
    refuse(out, {"train.minimum_loss_scale", "train.initial_loss_scale"},
           "the least loss scale is above the first one; lower it");
}

void check_numerics(const RunConfig& c, Conflicts& out) {
  using Precision = TrainConfig::Precision;
  using Device = TrainConfig::Device;
  if (c.train.precision == Precision::fp16 && c.train.device == Device::cpu)
    refuse(out, {"train.precision", "train.device"},
           "the cpu kernels have no fp16: no processor here multiplies it faster than bf16; set train.precision = "
           "\"bf16\", or device reference");
  check_loss_scale(c.train, out);
  if (c.train.precision == Precision::fp64 && c.train.device != Device::reference)
    refuse(out, {"train.precision", "train.device"},
           "fp64 runs on the reference kernels only; set train.device = \"reference\", or precision fp32");
  if (c.train.reduction == Reduction::ordered && c.layout.zero >= 2)
    refuse(out, {"train.reduction", "layout.zero"},
           "ordered sums need whole gradients on every rank; use layout.zero 0 or 1, or reduction fast");
}

void check_steps(const RunConfig& c, Conflicts& out) {
  if (c.schedule.warmup_steps > c.train.steps)
    out.push_back(
        {{"schedule.warmup_steps", "train.steps"},
         fmt::format("warm-up of {} steps is longer than the run of {}", c.schedule.warmup_steps, c.train.steps)});
}

/// A list has a number for each corpus, or one for all where that makes sense.
void check_list(const RunConfig& c, const char* key, const std::vector<double>& list, bool one_for_all,
                Conflicts& out) {
  const size_t corpora = c.data.corpora.size();
  if (list.empty() || corpora == 0 || list.size() == corpora || (one_for_all && list.size() == 1)) return;
  out.push_back({{key, "data.corpora"},
                 fmt::format("wanted {}one number for each of the {} corpora, got {}",
                             one_for_all ? "one number for all or " : "", corpora, list.size())});
}

void check_data(const RunConfig& c, Conflicts& out) {
  const DataConfig& d = c.data;
  check_list(c, "data.weights", d.weights, false, out);
  check_list(c, "data.epochs", d.epochs, true, out);
  check_list(c, "data.max_epochs", d.max_epochs, true, out);
  if (!d.weights.empty() && !d.epochs.empty())
    out.push_back({{"data.weights", "data.epochs"}, "both set the shares of the corpora; leave one of them out"});
  for (const auto* list : {&d.weights, &d.epochs})
    if (!list->empty() && *std::max_element(list->begin(), list->end()) <= 0)
      out.push_back({{list == &d.weights ? "data.weights" : "data.epochs"}, "wanted a number above 0, all are 0"});
  if (d.block > 0 && d.block % c.model.context != 0)
    out.push_back({{"data.block", "model.context"},
                   fmt::format("must be a multiple of the context, but {} is not one of {}; nearest: {}", d.block,
                               c.model.context, (d.block / c.model.context + 1) * c.model.context)});
  if (d.block > 0 && d.packing == DataConfig::Packing::best_fit)
    out.push_back({{"data.block", "data.packing"}, "blocks are for packing stream; leave data.block out"});
  if (d.objective != DataConfig::Objective::causal) {
    constexpr const char* kNeeds[] = {"", "attention that is causal but for a prefix",
                                      "an encoder (attention to both sides)", "an encoder and a decoder"};
    out.push_back({{"data.objective"},
                   fmt::format("this objective needs {}, and the model is a causal decoder; wanted causal",
                               kNeeds[static_cast<int>(d.objective)])});
  }
}

/// Batches, and where they are no power of two also data ranks, whose ordered sums form one tree.
std::string nearest_tree(const RunConfig& c, int64_t dp, int64_t count) {
  const LayoutConfig& l = c.layout;
  const bool groups = l.pp > 1 && l.interleave > 1;  // microbatches are then a multiple of pp
  if (groups && !power_of_two(l.pp)) return "a power of two for layout.pp, or layout.interleave = 1";
  const auto below = [](int64_t n) { return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n))); };
  const int64_t micro = c.train.microbatch > 0 ? c.train.microbatch : c.train.global_batch / dp;
  const int64_t less = std::max(below(count), groups ? int64_t{l.pp} : 1), more = power_of_two(count) ? less : 2 * less;
  std::string text;
  const auto offer = [&](int64_t ranks) {
    if (l.zero_ranks > 0 && ranks % l.zero_ranks != 0) return;
    if (!text.empty()) text += ", or ";
    if (ranks != dp) text += fmt::format("layout.dp = {} with ", ranks);
    text += fmt::format("train.global_batch = {}", less * micro * ranks);
    if (more != less) text += fmt::format(" or {}", more * micro * ranks);
  };
  offer(below(dp));
  if (!power_of_two(dp)) offer(2 * below(dp));
  return text.empty() ? "a power of two for layout.zero_ranks" : text;
}

/// The batch over `dp` data ranks (0: not known yet, then only what holds for every dp).
void check_batch(const RunConfig& c, int64_t dp, Conflicts& out) {
  const int64_t batch = c.train.global_batch, micro = c.train.microbatch, ranks = dp > 0 ? dp : 1;
  const int64_t pass = (micro > 0 ? micro : 1) * ranks;
  if (batch % pass != 0) {
    const int64_t up = (batch / pass + 1) * pass, down = batch / pass * pass;
    out.push_back({{"train.global_batch", "train.microbatch", "layout.dp"},
                   fmt::format("must be a multiple of microbatch x dp = {} x {}{}, but {} is not; nearest: {}",
                               micro > 0 ? micro : 1, ranks, dp > 0 ? "" : " at least", batch,
                               down > 0 ? fmt::format("{} or {}", down, up) : fmt::format("{}", up))});
    return;
  }
  const int64_t count = micro > 0 ? batch / pass : 1;
  if (dp > 0 && micro > 0 && c.layout.pp > 1 && c.layout.interleave > 1 && count % c.layout.pp != 0)
    out.push_back({{"train.global_batch", "train.microbatch", "layout.pp", "layout.interleave"},
                   fmt::format("an interleaved schedule goes round in groups of as many microbatches as stages, but {} "
                               "microbatches are no multiple of pp {}; nearest: train.global_batch = {}",
                               count, c.layout.pp, (count / c.layout.pp + 1) * c.layout.pp * pass)});
  if (c.train.reduction != Reduction::ordered || dp == 0) return;
  if (!power_of_two(dp) || !power_of_two(count))
    out.push_back(
        {{"train.reduction", "train.global_batch", "train.microbatch", "layout.dp"},
         fmt::format("ordered sums form one binary tree, so ranks and microbatches per rank must be powers of "
                     "two, but there are {} ranks with {} microbatches each; nearest: {}; or use fast",
                     dp, count, nearest_tree(c, dp, count))});
}

/// The number of ranks that the axes other than dp take.
int64_t other_axes(const LayoutConfig& l) { return int64_t{l.pp} * l.cp * l.tp; }

std::string axes_text(const LayoutConfig& l) {
  return fmt::format("dp {} x pp {} x cp {} x tp {}", l.dp ? fmt::format("{}", l.dp) : "(what remains)", l.pp, l.cp,
                     l.tp);
}

void check_world(RunConfig& c, int world, Conflicts& out) {
  LayoutConfig& l = c.layout;
  const int64_t others = other_axes(l);
  if (l.dp == 0) {
    if (world % others != 0) {
      out.push_back({{"layout.dp", "layout.pp", "layout.cp", "layout.tp"},
                     fmt::format("{} needs a multiple of {} ranks, but {} were started; start with mpirun -n {}",
                                 axes_text(l), others, world, (world / others + 1) * others)});
      return;
    }
    l.dp = static_cast<int>(world / others);
  } else if (l.dp * others != world) {
    out.push_back({{"layout.dp", "layout.pp", "layout.cp", "layout.tp"},
                   fmt::format("{} needs {} ranks, but {} were started; start with mpirun -n {}, or {}", axes_text(l),
                               l.dp * others, world, l.dp * others,
                               world % others == 0
                                   ? fmt::format("set layout.dp = {} (left out, it is what remains)", world / others)
                                   : "change the layout")});
    return;
  }
  check_hybrid(l, out);
}

}  // namespace

std::vector<Conflict> config_conflicts(const RunConfig& config) {
  Conflicts out;
  check_heads(config.model, out);
  check_positions(config.model, out);
  check_rotary_scaling(config.model, out);
  check_switches(config.model, out);
  check_layout(config, out);
  check_numerics(config, out);
  check_steps(config, out);
  check_data(config, out);
  check_batch(config, config.layout.dp, out);
  return out;
}

void check_for_world(RunConfig& config, int world) {
  CAPSTAN_CHECK(world > 0, "a world of {} ranks", world);
  Conflicts conflicts;
  check_world(config, world, conflicts);
  if (conflicts.empty()) check_batch(config, config.layout.dp, conflicts);
  ConfigMistakes mistakes;
  for (const Conflict& conflict : conflicts) mistakes.add({}, conflict.keys.front() + ": " + conflict.message);
  mistakes.throw_if_any();
  if (config.train.microbatch == 0) config.train.microbatch = config.train.global_batch / config.layout.dp;
}

void check_for_training(const RunConfig& config) {
  ConfigMistakes mistakes;
  if (config.data.corpora.empty())
    mistakes.add({},
                 "data.corpora: no corpus to train on; make one with capstan corpus build --out DIR TEXT..., then "
                 "set data.corpora = [\"DIR\"] in the config or add data.corpora=DIR to the command line");
  if (config.run.dir.empty()) mistakes.add({}, "run.dir: no run directory; add run.dir=DIR to the command line");
  mistakes.throw_if_any();
}

}  // namespace capstan
