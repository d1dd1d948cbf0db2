#pragma once
// A small decoder trained under a layout over threads as ranks, and its state put together again: what a layout is
// compared with its unsharded twin by. Where several ranks hold the same element they must agree bit for bit.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <map>
#include <mutex>

#include "parallel/lane_thread.h"
#include "parallel/rank_threads.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {

using Policy = Recompute::Policy;

/// How what communicates over dp runs: in its place, on a thread, or as late as its waits allow.
enum class Beside { no, thread, lazy };

/// Runs what was posted when somebody waits for it, not before: what touches memory without waiting finds the wrong
/// bytes every time.
class LazyLane final : public Lane {
 public:
  explicit LazyLane(std::shared_ptr<const AxisGroups> groups) : groups_(std::move(groups)) {}
  uint64_t post(const std::function<void(const RunArgs&)>& run, const RunArgs& args) override {
    work_.push_back({&run, args});
    return ++posted_;
  }
  uint64_t done() const override { return done_; }
  void wait(uint64_t number) override {
    for (; done_ < number; ++done_, work_.pop_front()) (*work_.front().first)(work_.front().second);
  }
  void abandon(std::shared_ptr<void>) override { work_.clear(); }

 private:
  std::shared_ptr<const AxisGroups> groups_;
  std::deque<std::pair<const std::function<void(const RunArgs&)>*, RunArgs>> work_;
  uint64_t posted_ = 0, done_ = 0;
};

inline TinyTraining::MakeLane make_lane(Beside beside) {
  if (beside == Beside::thread)
    return [](std::shared_ptr<const AxisGroups> groups) { return std::make_unique<LaneThread>(std::move(groups)); };
  if (beside == Beside::lazy)
    return [](std::shared_ptr<const AxisGroups> groups) { return std::make_unique<LazyLane>(std::move(groups)); };
  return {};
}

struct Layout {
  int tp = 1, dp = 1;
  bool sequence_parallel = false;
  Policy recompute = Policy::none;
  int zero = 0;
  int pp = 1;
  ScheduleKind schedule = ScheduleKind::one_forward_one_backward;
  int interleave = 1;
  int cp = 1;
  Beside beside = Beside::no;
  int zero_ranks = 0;         ///< of dp, among which state is divided; 0: all
  int recompute_layers = -1;  ///< full: in so many of the first layers; -1: in all

  int replicas() const { return zero_ranks > 0 ? dp / zero_ranks : 1; }
  int ranks() const { return tp * dp * pp * cp; }
};

inline std::string name_of(const Layout& layout) {
  constexpr const char* recompute[] = {"none", "selective", "full"};
  constexpr const char* schedule[] = {"gpipe", "1f1b", "interleaved", "zb"};
  return fmt::format("tp{}{}_dp{}_zero{}_{}", layout.tp, layout.sequence_parallel ? "sp" : "", layout.dp, layout.zero,
                     recompute[static_cast<int>(layout.recompute)]) +
         (layout.recompute_layers >= 0 ? fmt::format("{}", layout.recompute_layers) : "") +
         (layout.pp > 1 ? fmt::format("_pp{}_{}{}", layout.pp, schedule[static_cast<int>(layout.schedule)],
                                      layout.interleave > 1 ? fmt::format("{}", layout.interleave) : "")
                        : "") +
         (layout.cp > 1 ? fmt::format("_cp{}", layout.cp) : "") +
         (layout.zero_ranks > 0 ? fmt::format("_groups_of_{}", layout.zero_ranks) : "") +
         (layout.beside == Beside::no     ? ""
          : layout.beside == Beside::lazy ? "_lazy"
                                          : "_thread");
}

/// Logical tensors by name: parameters, moment1.*, moment2.*.
struct TwinOutcome {
  std::vector<Step> steps;
  std::map<std::string, std::vector<double>> state;
};

constexpr int kTwinSteps = 5;
constexpr double kTwinRate = 1e-2;

/// Puts the shards of all ranks together.
class StateCollector {
 public:
  void take(TinyTraining& training) {
    const std::lock_guard lock(mutex_);
    const ParameterSet& parameters = training.program().parameters();
    for (const std::string prefix : {"", "moment1.", "moment2."})
      for (int i = 0; i < static_cast<int>(parameters.size()); ++i)
        for (const StatePiece& piece : training.training().state_pieces(prefix, i))
          take_piece(piece, training.training().master_dtype(), prefix + parameters.at(i).name,
                     element_count(parameters.at(i).logical_shape()));
  }
  /// Fails when an element was held by no rank.
  std::map<std::string, std::vector<double>> state() const {
    for (const auto& [name, values] : state_)
      for (const double value : values) EXPECT_FALSE(std::isnan(value)) << name << " has an element that no rank holds";
    return state_;
  }

 private:
  void take_piece(const StatePiece& piece, DType dtype, const std::string& name, int64_t elements) {
    std::vector<double>& whole = state_.try_emplace(name, static_cast<size_t>(elements), NAN).first->second;
    for (int64_t j = 0; j < piece.count * piece.runs; ++j) {
      const double value = dtype == DType::f64 ? static_cast<const double*>(piece.data)[j]
                                               : static_cast<double>(static_cast<const float*>(piece.data)[j]);
      const int64_t at = piece.first + j / piece.count * piece.stride + j % piece.count;
      double& cell = whole.at(static_cast<size_t>(at));
      EXPECT_TRUE(std::isnan(cell) || cell == value) << name << "[" << at << "]: two ranks disagree";
      cell = value;
    }
  }

  std::mutex mutex_;
  std::map<std::string, std::vector<double>> state_;
};

/// The global batch is the same under every layout: dp x microbatches x microbatch = `batch`.
inline TwinOutcome train_twin(TrainingSpec spec, const Layout& layout, const kernels::Backend& backend,
                              int64_t microbatches = 1, int64_t batch = 4) {
  spec.microbatches = microbatches;
  spec.microbatch = batch / (layout.dp * microbatches);
  spec.schedule = layout.schedule, spec.interleave = layout.interleave;
  spec.sequence_parallel = layout.sequence_parallel;
  spec.zero = layout.zero;
  spec.plan.recompute = {layout.recompute, layout.recompute_layers};
  const int ranks = layout.ranks();
  StateCollector collector;
  std::vector<std::vector<Step>> steps(static_cast<size_t>(ranks));
  std::vector<std::string> digests(static_cast<size_t>(ranks));
  run_rank_threads(ranks, [&](Communicator& world) {
    TinyTraining training(spec, backend, world, layout.tp, layout.pp, layout.cp, layout.replicas(),
                          make_lane(layout.beside));
    std::vector<Step>& mine = steps[static_cast<size_t>(world.rank())];
    for (int i = 0; i < kTwinSteps; ++i) mine.push_back(training.step(i, kTwinRate));
    training.program().settle();  // all ranks at once: a lazy lane does its share only now
    collector.take(training);
    digests[static_cast<size_t>(world.rank())] = training.training().digest();
  });
  for (int r = 1; r < ranks; ++r) {
    EXPECT_EQ(steps[static_cast<size_t>(r)], steps[0]) << "losses and norms of rank " << r;
    const size_t first_of_stage = static_cast<size_t>(r / (ranks / layout.pp) * (ranks / layout.pp));
    EXPECT_EQ(digests[static_cast<size_t>(r)], digests[first_of_stage]) << "plan of rank " << r;
  }
  return {steps[0], collector.state()};
}

/// ||a - b|| <= 1e-9 max(||a||, learning rate sqrt(size)): AdamW moves an element by about the learning rate whatever
/// the size of its gradient, so a gradient that is nothing but rounding still moves its weight.
inline void expect_twins(const TwinOutcome& one, const TwinOutcome& many, double loss_limit, double weight_limit) {
  ASSERT_EQ(one.steps.size(), many.steps.size());
  for (size_t i = 0; i < one.steps.size(); ++i) {
    EXPECT_NEAR(many.steps[i].loss, one.steps[i].loss, loss_limit * one.steps[i].loss) << "loss of step " << i;
    EXPECT_NEAR(many.steps[i].norm, one.steps[i].norm, 1e2 * loss_limit * one.steps[i].norm) << "norm of step " << i;
  }
  ASSERT_EQ(one.state.size(), many.state.size());
  for (const auto& [name, a] : one.state) {
    if (name.ends_with("attention.k.bias")) continue;  // its gradient is rounding noise in any layout
    const std::vector<double>& b = many.state.at(name);
    ASSERT_EQ(a.size(), b.size()) << name;
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += a[i] * a[i];
    const double floor = kTwinRate * std::sqrt(static_cast<double>(a.size()));
    EXPECT_LE(std::sqrt(difference), weight_limit * std::max(std::sqrt(size), floor)) << name;
  }
}

/// Holds a layout against the unsharded twin of the same model, in fp64 on the reference kernels: to rounding. The twin
/// is trained once; `key` names the model.
inline void expect_is_its_twin(int key, DecoderConfig model, const Layout& layout, int64_t microbatches = 1,
                               double dropout = 0.0, int64_t batch = 4) {
  SCOPED_TRACE(name_of(layout));
  static std::map<std::pair<int, double>, TwinOutcome> known;
  model.dropout = dropout;
  const kernels::Backend backend = kernels::reference_backend();
  TwinOutcome& one = known[{key, dropout}];
  if (one.steps.empty()) one = train_twin(tiny_spec(model), {}, backend, 1, batch);
  expect_twins(one, train_twin(tiny_spec(model), layout, backend, microbatches, batch), 1e-12, 1e-9);
}

}  // namespace capstan::testing
