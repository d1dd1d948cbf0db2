#include "cluster/lab/sweep_spec.h"

namespace capstan {
namespace {

using S = SweepSpec;
using key_rows::above;
using key_rows::above_up_to;
using key_rows::at_least;
using key_rows::between;
using key_rows::from_to_below;

/// `reach`: from a spec to the field.
template <typename Reach>
SweepKey row(std::string name, KeyType type, std::string unit, Range range, Reach reach, std::string sentence) {
  using Field = std::remove_reference_t<decltype(reach(std::declval<S&>()))>;
  return {"sweep." + name,
          type,
          std::move(unit),
          range,
          {},
          std::move(sentence),
          [reach](S& spec, const ConfigValue& value) { reach(spec) = std::get<Field>(value); },
          [reach](S& spec) { return ConfigValue(reach(spec)); }};
}

template <typename Reach>
SweepKey choice(std::string name, std::vector<std::string> names, Reach reach, std::string sentence) {
  using Field = std::remove_reference_t<decltype(reach(std::declval<S&>()))>;
  return {"sweep." + name,
          KeyType::choice,
          "",
          {},
          names,
          std::move(sentence),
          [reach, names](S& spec, const ConfigValue& value) {
            for (size_t i = 0; i < names.size(); ++i)
              if (names[i] == std::get<std::string>(value)) reach(spec) = static_cast<Field>(i);
          },
          [reach, names](S& spec) { return ConfigValue(names[static_cast<size_t>(reach(spec))]); }};
}

constexpr double kMostFlops = 1e30;

void add_sweep(std::vector<SweepKey>& k) {
  k.push_back(row(
      "name", KeyType::text, "", {}, [](S & s) -> auto& { return s.name; },
      "Name of the sweep; when empty, that of the file."));
  k.push_back(row(
      "dir", KeyType::text, "directory", {}, [](S & s) -> auto& { return s.dir; },
      "Where runs, table and report go; when empty, runs/ and the name of the file."));
  k.push_back(row(
      "text", KeyType::text, "directory", {}, [](S & s) -> auto& { return s.text; },
      "Text of which a corpus of bytes is built at data.corpora where there is none yet."));
  k.push_back(row(
      "seeds", KeyType::number_list, "", between(0, 1e9), [](S & s) -> auto& { return s.seeds; },
      "Every run of the ladder is made with each of these."));
  k.push_back(row(
      "ranks", KeyType::integer, "ranks", between(1, 65536), [](S & s) -> auto& { return s.ranks; },
      "Of each run; more than one goes through mpirun."));
  k.push_back(row(
      "threads", KeyType::integer, "threads", between(1, 4096), [](S & s) -> auto& { return s.threads; },
      "Of each rank."));
  k.push_back(row(
      "jobs", KeyType::integer, "runs", between(0, 65536), [](S & s) -> auto& { return s.jobs; },
      "Runs at once; 0: as many as the cores have room for."));
  k.push_back(row(
      "retries", KeyType::integer, "starts", between(0, 100), [](S & s) -> auto& { return s.retries; },
      "How often a failed run is started again before it is stepped over."));
  k.push_back(choice(
      "count_n", {"total", "blocks"}, [](S & s) -> auto& { return s.count_n; },
      "What N means in rules, fits and tables: all parameters, or those of the blocks (non-embedding)."));
  k.push_back(choice(
      "count_flops", {"half", "whole", "6nd"}, [](S & s) -> auto& { return s.count_flops; },
      "What C means: the plan's own count with causal attention as the half it needs or whole, or 6ND."));
  k.push_back(row(
      "warmup_share", KeyType::real, "", from_to_below(0, 1), [](S & s) -> auto& { return s.warmup_share; },
      "Warm-up as a share of each run's steps (of the shortest horizon, with cooldowns)."));
  k.push_back(row(
      "init_scale", KeyType::real, "", between(0, 100), [](S & s) -> auto& { return s.init_scale; },
      "Above 0: model.init_std of each size is this over the root of its width, as fan-in wants it; 0: as set."));
  k.push_back(row(
      "cooldown_share", KeyType::real, "", from_to_below(0, 1), [](S & s) -> auto& { return s.cooldown_share; },
      "Above 0: one long run per size at a constant rate, and for each horizon a cooldown over this share of "
      "its steps, branched from the long run's checkpoint."));
}

void add_sizes(std::vector<SweepKey>& k) {
  k.push_back(row(
      "sizes.presets", KeyType::text_list, "", {}, [](S & s) -> auto& { return s.sizes.presets; },
      "Named models (capstan config --presets)."));
  k.push_back(row(
      "sizes.shapes", KeyType::text_list, "", {}, [](S & s) -> auto& { return s.sizes.shapes; },
      "Shapes as WIDTHxLAYERS, for instance 64x3."));
  k.push_back(row(
      "sizes.targets", KeyType::number_list, "parameters", between(1, 1e15),
      [](S & s) -> auto& { return s.sizes.targets; },
      "Sizes N for which the nearest shape that can be built is taken."));
  k.push_back(row(
      "sizes.head_size", KeyType::integer, "", between(2, 4096), [](S & s) -> auto& { return s.sizes.head_size; },
      "Dims of a head; where it does not divide a width, the next smaller even divisor is taken."));
  k.push_back(row(
      "sizes.aspect", KeyType::real, "", above(0), [](S & s) -> auto& { return s.sizes.aspect; },
      "Width over layers that shapes for targets keep near."));
}

void add_budgets(std::vector<SweepKey>& k) {
  k.push_back(row(
      "budgets.flops", KeyType::number_list, "FLOP", between(1, kMostFlops),
      [](S & s) -> auto& { return s.budgets.flops; }, "IsoFLOP budgets: each size gets the tokens that one pays for."));
  k.push_back(row(
      "budgets.tokens", KeyType::number_list, "tokens", between(1, kMostFlops),
      [](S & s) -> auto& { return s.budgets.tokens; }, "Horizons in tokens, the same for all sizes."));
  k.push_back(row(
      "budgets.tokens_per_parameter", KeyType::number_list, "tokens", between(0.001, 1e9),
      [](S & s) -> auto& { return s.budgets.tokens_per_parameter; }, "Horizons as multiples of N."));
  k.push_back(row(
      "budgets.sizes_each", KeyType::integer, "sizes", between(0, 1000),
      [](S & s) -> auto& { return s.budgets.sizes_each; },
      "Of an IsoFLOP budget: only the sizes nearest to its expected optimum; 0: all."));
  k.push_back(row(
      "budgets.centre_flops", KeyType::real, "FLOP", between(0, kMostFlops),
      [](S & s) -> auto& { return s.budgets.centre_flops; }, "A budget whose optimum is roughly known, ..."));
  k.push_back(row(
      "budgets.centre_n", KeyType::real, "parameters", between(0, kMostFlops),
      [](S & s) -> auto& { return s.budgets.centre_n; }, "... the N of that optimum, ..."));
  k.push_back(row(
      "budgets.centre_exponent", KeyType::real, "", between(0, 1),
      [](S & s) -> auto& { return s.budgets.centre_exponent; }, "... and the exponent by which it grows with C."));
}

void add_rules(std::vector<SweepKey>& k) {
  k.push_back(choice(
      "learning_rate.rule", {"fixed", "power", "search"}, [](S & s) -> auto& { return s.learning_rate.rule; },
      "One for all; value x (N / reference_n)^exponent; or tried out first."));
  k.push_back(row(
      "learning_rate.value", KeyType::real, "", above_up_to(0, 1000),
      [](S & s) -> auto& { return s.learning_rate.value; }, "Of rules fixed and power."));
  k.push_back(row(
      "learning_rate.reference_n", KeyType::real, "parameters", above(0),
      [](S & s) -> auto& { return s.learning_rate.reference_n; }, "Of rule power."));
  k.push_back(row(
      "learning_rate.exponent", KeyType::real, "", between(-2, 2),
      [](S & s) -> auto& { return s.learning_rate.exponent; },
      "Of rule power, and of rule search where one size alone was tried."));
  k.push_back(row(
      "learning_rate.candidates", KeyType::number_list, "", above_up_to(0, 1000),
      [](S & s) -> auto& { return s.learning_rate.candidates; },
      "Rates that a search tries first; where the best of them is the least or the greatest, it goes on beyond."));
  k.push_back(row(
      "learning_rate.search_flops", KeyType::real, "FLOP", between(0, kMostFlops),
      [](S & s) -> auto& { return s.learning_rate.search_flops; }, "Of each run of a search."));
  k.push_back(row(
      "learning_rate.search_sizes", KeyType::integer, "sizes", between(1, 100),
      [](S & s) -> auto& { return s.learning_rate.search_sizes; },
      "How many sizes are tried, from a quarter to three quarters of those that search_flops is meant for; a power law "
      "goes through what is best for each."));
  k.push_back(choice(
      "batch.rule", {"fixed", "power"}, [](S & s) -> auto& { return s.batch.rule; },
      "One for all; or sequences x (D / reference_tokens)^exponent, rounded to a multiple of the ranks."));
  k.push_back(row(
      "batch.sequences", KeyType::integer, "sequences", between(1, 1 << 24),
      [](S & s) -> auto& { return s.batch.sequences; }, "Of a step."));
  k.push_back(row(
      "batch.reference_tokens", KeyType::real, "tokens", above(0),
      [](S & s) -> auto& { return s.batch.reference_tokens; }, "Of rule power."));
  k.push_back(row(
      "batch.exponent", KeyType::real, "", between(0, 1), [](S & s) -> auto& { return s.batch.exponent; },
      "Of rule power."));
}

void add_tests(std::vector<SweepKey>& k) {
  k.push_back(row(
      "noise.flops", KeyType::real, "FLOP", between(0, kMostFlops), [](S & s) -> auto& { return s.noise.flops; },
      "Budget whose middle size is repeated with other seeds."));
  k.push_back(row(
      "noise.seeds", KeyType::number_list, "", between(0, 1e9), [](S & s) -> auto& { return s.noise.seeds; },
      "Those seeds."));
  k.push_back(row(
      "held_out.flops", KeyType::real, "FLOP", between(0, kMostFlops), [](S & s) -> auto& { return s.held_out.flops; },
      "A larger budget: its optimum is predicted from the ladder, written down, then trained and compared."));
  k.push_back(row(
      "held_out.threads", KeyType::integer, "threads", between(0, 4096),
      [](S & s) -> auto& { return s.held_out.threads; },
      "Of that run, which has the machine to itself; 0: as many as the others."));
}

void add_decisions(std::vector<SweepKey>& k) {
  k.push_back(row(
      "decide.flops", KeyType::number_list, "FLOP", between(1, kMostFlops),
      [](S & s) -> auto& { return s.decide.flops; }, "Budgets that the report decides."));
  k.push_back(row(
      "decide.unique_tokens", KeyType::real, "tokens", at_least(0),
      [](S & s) -> auto& { return s.decide.unique_tokens; }, "Distinct tokens at hand; 0: as many as wanted."));
  k.push_back(row(
      "decide.inference_tokens", KeyType::real, "tokens", at_least(0),
      [](S & s) -> auto& { return s.decide.inference_tokens; }, "Tokens to be served later, paid from the budget."));
  k.push_back(row(
      "decide.gpu", KeyType::text, "", {}, [](S & s) -> auto& { return s.decide.gpu; }, "Name of the GPU."));
  k.push_back(row(
      "decide.gpu_flops", KeyType::real, "FLOP/s", above(0), [](S & s) -> auto& { return s.decide.gpu_flops; },
      "Its dense peak."));
  k.push_back(row(
      "decide.gpu_utilization", KeyType::real, "", above_up_to(0, 1),
      [](S & s) -> auto& { return s.decide.gpu_utilization; }, "Share of the peak that training reaches (MFU)."));
  k.push_back(row(
      "decide.gpu_price", KeyType::real, "per hour", at_least(0), [](S & s) -> auto& { return s.decide.gpu_price; },
      "Price of one GPU for an hour, in any currency."));
  k.push_back(row(
      "decide.gpu_memory", KeyType::real, "GB", above(0), [](S & s) -> auto& { return s.decide.gpu_memory; },
      "Memory of one GPU."));
  k.push_back(row(
      "decide.gpus", KeyType::integer, "GPUs", between(1, 1e6), [](S & s) -> auto& { return s.decide.gpus; },
      "How many there are."));
}

}  // namespace

const std::vector<SweepKey>& sweep_keys() {
  static const std::vector<SweepKey> keys = [] {
    std::vector<SweepKey> k;
    add_sweep(k);
    add_sizes(k);
    add_budgets(k);
    add_rules(k);
    add_tests(k);
    add_decisions(k);
    return k;
  }();
  return keys;
}

}  // namespace capstan
