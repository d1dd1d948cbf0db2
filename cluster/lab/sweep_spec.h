#pragma once
// SweepSpec: what a sweep file asks for. A sweep file is a run's file (every section that `capstan train` knows is the
// base of all runs) with sections [sweep...] added, each key of which is declared once in sweep_keys(): the reader, the
// reference page and the checks follow from that list.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/config/key.h"
#include "core/config/run_config.h"

namespace capstan {

struct SweepSpec {
  enum class CountN { total, blocks };
  enum class CountFlops { half, whole, six_nd };
  enum class Rule { fixed, power, search };

  std::string name, dir, text;
  std::vector<double> seeds = {1};
  int64_t ranks = 1, threads = 1, jobs = 0, retries = 1;
  CountN count_n = CountN::total;
  CountFlops count_flops = CountFlops::half;

  struct Sizes {
    std::vector<std::string> presets, shapes;
    std::vector<double> targets;
    int64_t head_size = 16;
    double aspect = 24;
  } sizes;
  struct Budgets {
    std::vector<double> flops, tokens, tokens_per_parameter;
    int64_t sizes_each = 0;
    double centre_flops = 0, centre_n = 0, centre_exponent = 0.5;
  } budgets;
  struct LearningRate {
    Rule rule = Rule::fixed;
    double value = 3e-3, reference_n = 1e6, exponent = 0;
    std::vector<double> candidates;
    double search_flops = 0;
    int64_t search_sizes = 2;
  } learning_rate;
  struct Batch {
    Rule rule = Rule::fixed;
    int64_t sequences = 32;
    double reference_tokens = 1e6, exponent = 0;
  } batch;
  double warmup_share = 0.05, init_scale = 0;
  double cooldown_share = 0;
  struct Noise {
    double flops = 0;
    std::vector<double> seeds;
  } noise;
  struct HeldOut {
    double flops = 0;
    int64_t threads = 0;  ///< 0 is replaced by sweep.threads
  } held_out;
  struct Decide {
    std::vector<double> flops;
    double unique_tokens = 0, inference_tokens = 0;
    std::string gpu = "H100 SXM";
    double gpu_flops = 989e12, gpu_utilization = 0.4, gpu_price = 2.5, gpu_memory = 80;
    int64_t gpus = 8;
  } decide;
  struct Override {
    std::string pattern;  ///< of run names, with * and ?
    std::vector<std::string> settings;
  };
  std::vector<Override> overrides;

  RunConfig base;
  std::string base_text;  ///< of the file without the sweep's sections, as the runs' settings are read from it
  std::vector<std::string> base_settings;  ///< key=value from the command line
  std::string file;
};

/// One key under [sweep]. Values are those of core/config/key.h.
struct SweepKey {
  std::string name;  ///< "sweep.sizes.shapes"
  KeyType type;
  std::string unit;
  Range range;
  std::vector<std::string> choices;
  std::string sentence;
  std::function<void(SweepSpec&, const ConfigValue&)> set;
  std::function<ConfigValue(SweepSpec&)> get;
};
const std::vector<SweepKey>& sweep_keys();

/// Every mistake of the file at once, with its line. Overrides: key.path=value of either kind of key.
/// Error config or missing_input. An empty sweep.dir becomes runs/<name of the file>.
SweepSpec load_sweep(const std::string& path, const std::vector<std::string>& overrides = {});
SweepSpec parse_sweep(const std::string& text, const std::string& file, const std::vector<std::string>& overrides = {});

/// Shell pattern of * and ?.
bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace capstan
