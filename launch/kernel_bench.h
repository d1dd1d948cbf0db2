#pragma once
// KernelBench: the ops of a plan, each alone in memory of its own, against the roofline that was measured beside them:
// the time that its FLOPs take at the rate of a large product of its dtype, or its bytes at the rate of a large copy,
// whichever is longer. An op is run over several copies of its operands in turn, so that what the caches keep from one
// call is not there for the next; on a device many calls are captured into one graph and timed by events, as in a step.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/plan.h"
#include "launch/rank_device.h"

namespace capstan {

struct KernelRow {
  std::string op, operands;
  Part part = Part::forward;
  double calls = 0.0;  ///< in a step
  Cost cost;           ///< of one call
  DType dtype = DType::f32;
  double seconds = 0.0, least = 0.0, most = 0.0;  ///< of one call: median of the rounds
  double roof_seconds = 0.0;                      ///< what the measured ceilings allow
  std::string left_out;                           ///< why it was not measured
  double step_seconds() const { return calls * seconds; }
};

struct KernelBenchOptions {
  int rounds = 5;
  double seconds = 0.01;                 ///< a round repeats an op for about as long
  size_t cold_bytes = size_t{64} << 20;  ///< memory over which repeated calls walk
  size_t most_bytes = 0;                 ///< an op that needs more is left out; 0: no limit
  int64_t vocabulary = 1;                ///< of the tokens put in
};

class KernelBench {
 public:
  KernelBench(const RankDevice& device, const KernelBenchOptions& options);

  /// Every op of the plan whose shapes differ, by descending share of a step of `microbatches`. Ops that communicate
  /// are left out. told: called before each op with its row.
  std::vector<KernelRow> measure(const Plan& plan, int64_t microbatches,
                                 const std::function<void(const KernelRow&, size_t done, size_t of)>& told = {});
  /// FLOP/s of a large product of this dtype: measured when it is first asked for.
  double product_rate(DType dtype);
  /// Bytes read and written a second by a large copy.
  double copy_rate() const { return copy_rate_; }

 private:
  struct Operands;
  double measure_copy() const;
  void time(const Plan& plan, size_t node, bool accumulate, KernelRow& row);
  double time_calls(const std::function<void(int64_t)>& call, int64_t count, bool capturable);

  const RankDevice& device_;
  KernelBenchOptions options_;
  std::map<DType, double> product_rates_;
  double copy_rate_ = 0.0;
  kernels::Event events_[2] = {};  ///< of a device
};

/// Rows for people, and what they add up to.
std::string table_of(const std::vector<KernelRow>& rows);

}  // namespace capstan
