#include "cluster/lab/sweep_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "cluster/lab/learning_rate_search.h"
#include "core/config/config_reader.h"
#include "core/error.h"

namespace capstan {

std::string short_number(double x) {
  std::string text = fmt::format("{:.4g}", x);
  if (x >= 1e4 || (x > 0 && x < 1e-3)) {
    text = fmt::format("{:.3e}", x);  // 3.000e+11
    const size_t e = text.find('e');
    std::string mantissa = text.substr(0, e), exponent = text.substr(e + 1);
    while (mantissa.back() == '0') mantissa.pop_back();
    if (mantissa.back() == '.') mantissa.pop_back();
    text = mantissa + "e" + std::to_string(std::stoi(exponent));
  }
  return text;
}

const PlannedRun* SweepPlan::find(const std::string& id) const {
  for (const PlannedRun& run : runs)
    if (run.id == id) return &run;
  return nullptr;
}

namespace {

constexpr double kMostSteps = 1e9;

class Planner {
 public:
  Planner(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records)
      : spec_(spec), vocabulary_(vocabulary), records_(records) {
    plan_.sizes = sweep_sizes(spec, vocabulary);
    if (!plan_.sizes.empty()) search_ = LearningRateSearch(spec, plan_.sizes, records);
  }

  SweepPlan plan(const std::optional<HeldOutPrediction>& prediction) {
    add_search();
    for (const double seed : spec_.seeds) add_ladder(static_cast<int64_t>(seed));
    add_noise();
    if (spec_.held_out.flops > 0) add_held_out(prediction);
    set_waves();
    for (PlannedRun& run : plan_.runs) finish(run);
    for (const std::string& note : search_.notes()) plan_.notes.push_back(note);
    return plan_;
  }

 private:
  int64_t batch_for(double tokens) const {
    if (spec_.batch.rule == SweepSpec::Rule::fixed) return spec_.batch.sequences;
    const double wanted = static_cast<double>(spec_.batch.sequences) *
                          std::pow(tokens / spec_.batch.reference_tokens, spec_.batch.exponent);
    return std::max<int64_t>(1, std::llround(wanted / static_cast<double>(spec_.ranks))) * spec_.ranks;
  }

  PlannedRun run_of(size_t size, double tokens, int64_t seed, const std::string& kind) const {
    PlannedRun run;
    run.kind = kind, run.size = size, run.seed = seed, run.threads = spec_.threads;
    run.batch = batch_for(tokens);
    const double steps = tokens / static_cast<double>(run.batch * plan_.sizes[size].model.context);
    if (!(steps < kMostSteps))
      throw Error::make(ExitCode::config, "{} with {:.3g} tokens is {:.3g} steps: smaller budgets, please",
                        plan_.sizes[size].label, tokens, steps);
    set_steps(run, std::max<int64_t>(1, std::llround(steps)));
    run.warmup = std::min<int64_t>(run.steps - 1, std::llround(spec_.warmup_share * static_cast<double>(run.steps)));
    const auto rate = search_.rate(plan_.sizes[size].n);
    run.learning_rate = rate.value, run.provisional = rate.provisional;
    return run;
  }

  void set_steps(PlannedRun& run, int64_t steps) const {
    const SweepSize& size = plan_.sizes[run.size];
    run.steps = steps;
    run.tokens = static_cast<double>(steps * run.batch) * static_cast<double>(size.model.context);
    run.flops = run.tokens * size.flops_token;
  }

  void add(PlannedRun run, const std::string& id) {
    run.id = id;
    if (run.directory.empty()) run.directory = id;
    if (plan_.find(id) == nullptr) plan_.runs.push_back(std::move(run));
  }

  void add_search() {
    for (const LearningRateSearch::Trial& trial : search_.trials()) {
      const double tokens = spec_.learning_rate.search_flops / plan_.sizes[trial.size].flops_token;
      PlannedRun run = run_of(trial.size, tokens, static_cast<int64_t>(spec_.seeds[0]), "search");
      run.learning_rate = trial.rate, run.provisional = false;
      add(run, trial.id);
    }
  }

  /// (tokens, part of the name) of each horizon of a size that is not an IsoFLOP budget.
  std::vector<std::pair<double, std::string>> horizons(size_t size) const {
    std::vector<std::pair<double, std::string>> out;
    for (const double d : spec_.budgets.tokens) out.emplace_back(d, "d" + short_number(d));
    for (const double r : spec_.budgets.tokens_per_parameter)
      out.emplace_back(r * plan_.sizes[size].n, "r" + short_number(r));
    std::sort(out.begin(), out.end());
    return out;
  }

  void add_ladder(int64_t seed) {
    for (const double flops : spec_.budgets.flops)
      for (const size_t size : sizes_of_budget(spec_, plan_.sizes, flops))
        add(run_of(size, flops / plan_.sizes[size].flops_token, seed, "ladder"),
            fmt::format("{}-c{}-s{}", plan_.sizes[size].label, short_number(flops), seed));
    for (size_t size = 0; size < plan_.sizes.size(); ++size) {
      if (spec_.cooldown_share > 0)
        add_cooldowns(size, seed);
      else
        for (const auto& [tokens, name] : horizons(size))
          add(run_of(size, tokens, seed, "ladder"), fmt::format("{}-{}-s{}", plan_.sizes[size].label, name, seed));
    }
  }

  /// One long run at a constant rate in segments that end where cooldowns branch off.
  void add_cooldowns(size_t size, int64_t seed) {
    const auto all = horizons(size);
    const std::string label = plan_.sizes[size].label, trunk = fmt::format("{}-trunk-s{}", label, seed);
    const int64_t batch = batch_for(all.back().first), warmup = run_of(size, all.front().first, seed, "").warmup;
    int64_t before = 0;
    std::string parent;
    for (const auto& [tokens, name] : all) {
      PlannedRun cooldown = run_of(size, tokens, seed, "cooldown");
      cooldown.batch = batch, cooldown.warmup = warmup;
      const double steps = tokens / static_cast<double>(batch * plan_.sizes[size].model.context);
      set_steps(cooldown, std::max<int64_t>(2, std::llround(steps)));
      const int64_t decay = std::clamp<int64_t>(
          std::llround(spec_.cooldown_share * static_cast<double>(cooldown.steps)), 1, cooldown.steps - 1);
      const int64_t branch = cooldown.steps - decay;
      if (branch <= before || branch <= warmup) {
        plan_.notes.push_back(
            fmt::format("{}-{}: its cooldown would begin at step {}, not after the warm-up ({}) and "
                        "the branch before ({}); left out",
                        label, name, branch, warmup, before));
        continue;
      }
      const std::string segment = fmt::format("{}-b{}", trunk, branch);
      add_segment(cooldown, trunk, segment, parent, before, branch);
      cooldown.parent = segment, cooldown.first_step = branch;
      cooldown.settings = {
          "schedule.kind=wsd",
          fmt::format("schedule.decay_fraction={}", static_cast<double>(decay) / static_cast<double>(cooldown.steps))};
      add(cooldown, fmt::format("{}-{}-s{}", label, name, seed));
      parent = segment, before = branch;
    }
  }

  void add_segment(PlannedRun run, const std::string& directory, const std::string& id, const std::string& parent,
                   int64_t first, int64_t end) {
    run.kind = "trunk", run.directory = directory, run.parent = parent, run.first_step = first;
    set_steps(run, end);
    run.settings = {"schedule.kind=constant"};
    add(run, id);
  }

  void add_noise() {
    if (!(spec_.noise.flops > 0)) return;
    std::vector<size_t> sizes = sizes_of_budget(spec_, plan_.sizes, spec_.noise.flops);
    const size_t middle = sizes[sizes.size() / 2];
    for (const double seed : spec_.noise.seeds)
      add(run_of(middle, spec_.noise.flops / plan_.sizes[middle].flops_token, static_cast<int64_t>(seed), "noise"),
          fmt::format("{}-c{}-s{}", plan_.sizes[middle].label, short_number(spec_.noise.flops),
                      static_cast<int64_t>(seed)));
  }

  bool recorded(const PlannedRun& run) const {
    return std::any_of(records_.begin(), records_.end(), [&](const RunRecord& r) { return r.run == run.id; });
  }

  void add_held_out(const std::optional<HeldOutPrediction>& known) {
    const bool ready =
        std::all_of(plan_.runs.begin(), plan_.runs.end(), [&](const PlannedRun& r) { return recorded(r); });
    // Before the ladder is there, what it found so far would only mislead: the forecast takes the file's expectation.
    const bool same = known && std::abs(known->flops / spec_.held_out.flops - 1) < 1e-9;
    plan_.prediction =
        same ? *known : predict_held_out(spec_, vocabulary_, ready ? records_ : std::vector<RunRecord>{});
    const std::string& shape = plan_.prediction->shape;
    const auto found =
        std::find_if(plan_.sizes.begin(), plan_.sizes.end(), [&](const SweepSize& s) { return s.label == shape; });
    size_t size = static_cast<size_t>(found - plan_.sizes.begin());
    if (found == plan_.sizes.end())
      plan_.sizes.push_back(
          sized(spec_, shape, shaped(spec_, plan_.prediction->width, plan_.prediction->layers), vocabulary_));
    PlannedRun run = run_of(size, spec_.held_out.flops / plan_.sizes[size].flops_token,
                            static_cast<int64_t>(spec_.seeds[0]), "held-out");
    run.provisional = !ready;
    run.threads = spec_.held_out.threads;
    add(run, "held-out-c" + short_number(spec_.held_out.flops));
  }

  void set_waves() {
    const bool searching = !search_.trials().empty();
    int last = 0;
    for (PlannedRun& run : plan_.runs) {  // parents stand before their children
      run.wave = run.kind == "search" || !searching ? 0 : 1;
      if (const PlannedRun* parent = run.parent.empty() ? nullptr : plan_.find(run.parent)) run.wave = parent->wave + 1;
      if (run.kind == "held-out") run.wave = last + 1;
      last = std::max(last, run.wave);
    }
  }

  void finish(PlannedRun& run) const {
    const SweepSize& size = plan_.sizes[run.size];
    std::vector<std::string> settings;
    if (!size.preset.empty()) {
      settings.push_back("model.preset=" + size.preset);
    } else {
      for (const auto& [key, value] : {std::pair<const char*, int64_t>{"layers", size.model.layers},
                                       {"width", size.model.width},
                                       {"heads", size.model.heads},
                                       {"kv_heads", 0},
                                       {"head_size", 0},
                                       {"hidden", 0}})
        settings.push_back(fmt::format("model.{}={}", key, value));
    }
    settings.push_back(fmt::format("model.vocabulary={}", size.model.vocabulary));
    settings.push_back(fmt::format("optimizer.learning_rate={}", run.learning_rate));
    if (spec_.init_scale > 0)
      settings.push_back(
          fmt::format("model.init_std={:.6g}", spec_.init_scale / std::sqrt(static_cast<double>(size.model.width))));
    settings.push_back(fmt::format("train.steps={}", run.steps));
    settings.push_back(fmt::format("train.global_batch={}", run.batch));
    settings.push_back(fmt::format("train.seed={}", run.seed));
    settings.push_back(fmt::format("train.threads={}", run.threads));
    settings.push_back(fmt::format("schedule.warmup_steps={}", run.warmup));
    settings.push_back(fmt::format("run.dir={}/runs/{}", spec_.dir, run.directory));
    settings.insert(settings.end(), run.settings.begin(), run.settings.end());
    for (const SweepSpec::Override& item : spec_.overrides)
      if (matches_pattern(item.pattern, run.id))
        settings.insert(settings.end(), item.settings.begin(), item.settings.end());
    run.settings = settings;
  }

  const SweepSpec& spec_;
  int64_t vocabulary_;
  const std::vector<RunRecord>& records_;
  SweepPlan plan_;
  LearningRateSearch search_;
};

}  // namespace

SweepPlan plan_sweep(const SweepSpec& spec, int64_t vocabulary, const std::vector<RunRecord>& records,
                     const std::optional<HeldOutPrediction>& prediction) {
  return Planner(spec, vocabulary, records).plan(prediction);
}

RunConfig config_of(const SweepSpec& spec, const PlannedRun& run) {
  std::vector<std::string> settings = spec.base_settings;
  settings.insert(settings.end(), run.settings.begin(), run.settings.end());
  settings.push_back("run.records=none");  // the sweep keeps the records
  try {
    return parse_run_config(spec.base_text, spec.file, settings);
  } catch (const Error& error) {
    throw Error::make(error.code(), "run {}: {}", run.id, error.what());
  }
}

}  // namespace capstan
