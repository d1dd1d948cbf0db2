// label: ranks
// Data parallel training of whole small decoders over threads as ranks: any number of ranks and microbatches gives the
// training of one rank, to rounding or, where the summation tree is asked for, bit for bit.

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "parallel/rank_threads.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

constexpr int kStepCount = 5;
constexpr int64_t kGlobalBatch = 8;
constexpr double kLearningRate = 1e-2;

/// What a training leaves behind on one rank: weights and moments, tensor after tensor in declared order.
struct Outcome {
  std::vector<Step> steps;
  std::vector<double> parameters, moments;
  std::string digest;
};

template <typename T>
std::vector<double> wide(const std::vector<T>& values) {
  return std::vector<double>(values.begin(), values.end());
}

/// Trains on `ranks` ranks with `microbatches` of equal size each; the global batch is always the same.
std::vector<Outcome> train(TrainingSpec spec, int ranks, int64_t microbatches) {
  spec.microbatches = microbatches;
  spec.microbatch = kGlobalBatch / (ranks * microbatches);
  const kernels::Backend backend = kernels::reference_backend();
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_rank_threads(ranks, [&](Communicator& group) {
    TinyTraining training(spec, backend, group);
    Outcome& mine = outcomes[static_cast<size_t>(group.rank())];
    for (int i = 0; i < kStepCount; ++i) mine.steps.push_back(training.step(i, kLearningRate));
    const bool f64 = training.training().master_dtype() == DType::f64;
    const auto append = [&](std::vector<double>& all, const std::string& name) {
      const std::vector<double> values = f64 ? training.values<double>(name) : wide(training.values<float>(name));
      all.insert(all.end(), values.begin(), values.end());
    };
    const ParameterSet& parameters = training.program().parameters();
    for (size_t p = 0; p < parameters.size(); ++p) {
      append(mine.parameters, parameters.at(static_cast<int>(p)).name);
      append(mine.moments, "moment1." + parameters.at(static_cast<int>(p)).name);
    }
    mine.digest = training.program().digest();
  });
  return outcomes;
}

/// ||a - b|| <= 1e-9 max(||a||, learning rate sqrt(size)) of every tensor: AdamW moves an element by about the learning
/// rate whatever the size of its gradient, so a gradient that is nothing but rounding still moves its weight.
void expect_close(const TrainingSpec& spec, const std::vector<double>& a, const std::vector<double>& b) {
  ParameterSet parameters;
  const Decoder model(spec.model, parameters);
  ASSERT_EQ(b.size(), a.size());
  for (size_t p = 0, first = 0, count = 0; p < parameters.size(); ++p, first += count) {
    const Parameter& parameter = parameters.at(static_cast<int>(p));
    count = static_cast<size_t>(element_count(parameter.shape));
    ASSERT_LE(first + count, a.size());
    if (parameter.name.ends_with("attention.k.bias")) continue;  // its gradient is rounding noise in any layout
    double difference = 0.0, size = 0.0;
    for (size_t i = first; i < first + count; ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += a[i] * a[i];
    const double floor = kLearningRate * std::sqrt(static_cast<double>(count));
    EXPECT_LE(std::sqrt(difference), 1e-9 * std::max(std::sqrt(size), floor)) << parameter.name;
  }
}

void expect_ranks_agree(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.steps, outcomes[0].steps);
    EXPECT_EQ(outcome.parameters, outcomes[0].parameters);
    EXPECT_EQ(outcome.moments, outcomes[0].moments);
    EXPECT_EQ(outcome.digest, outcomes[0].digest);
  }
}

class TrainingRanks : public ::testing::TestWithParam<std::tuple<int, double>> {
 protected:
  static TrainingSpec spec(Precision precision) {
    const auto [which, dropout] = GetParam();
    DecoderConfig config = which == 0 ? tiny_gpt() : which == 1 ? tiny_llama() : tiny_alibi();
    config.dropout = dropout;
    return tiny_spec(config, precision);
  }
};

TEST_P(TrainingRanks, AnyNumberOfRanksIsOneRank) {
  const TrainingSpec spec = this->spec(Precision::fp64);
  const Outcome one = train(spec, 1, 1)[0];
  EXPECT_LT(one.steps.back().loss, one.steps.front().loss * 1.2);
  for (const int ranks : {2, 4}) {
    const std::vector<Outcome> many = train(spec, ranks, ranks == 2 ? 2 : 1);
    expect_ranks_agree(many);
    for (size_t i = 0; i < one.steps.size(); ++i) {
      EXPECT_NEAR(many[0].steps[i].loss, one.steps[i].loss, 1e-12 * one.steps[i].loss) << ranks << " ranks, step " << i;
      EXPECT_NEAR(many[0].steps[i].norm, one.steps[i].norm, 1e-10 * one.steps[i].norm) << ranks << " ranks, step " << i;
    }
    expect_close(spec, one.parameters, many[0].parameters);
  }
}

TEST_P(TrainingRanks, OrderedReductionIsBitwiseWhateverTheLayout) {
  TrainingSpec spec = this->spec(Precision::fp32);
  spec.plan.reduction = Reduction::ordered;
  const Outcome one = train(spec, 1, 4)[0];
  for (const int ranks : {2, 4}) {
    const std::vector<Outcome> many = train(spec, ranks, 4 / ranks);
    expect_ranks_agree(many);
    EXPECT_EQ(many[0].steps, one.steps) << ranks << " ranks";
    EXPECT_EQ(many[0].parameters, one.parameters) << ranks << " ranks";
    EXPECT_EQ(many[0].moments, one.moments) << ranks << " ranks";
  }
}

TEST_P(TrainingRanks, RunTwiceIsBitwise) {
  for (const Reduction reduction : {Reduction::fast, Reduction::ordered}) {
    TrainingSpec spec = this->spec(Precision::bf16);
    spec.plan.reduction = reduction;
    const Outcome first = train(spec, 4, 2)[0], second = train(spec, 4, 2)[0];
    EXPECT_EQ(first.steps, second.steps);
    EXPECT_EQ(first.parameters, second.parameters);
    EXPECT_EQ(first.digest, second.digest);
  }
}

std::string name_of_case(const ::testing::TestParamInfo<std::tuple<int, double>>& test) {
  const int which = std::get<0>(test.param);
  return std::string(which == 0   ? "gpt"
                     : which == 1 ? "llama"
                                  : "alibi") +
         (std::get<1>(test.param) > 0 ? "_dropout" : "");
}
INSTANTIATE_TEST_SUITE_P(Decoders, TrainingRanks,
                         ::testing::Combine(::testing::Values(0, 1, 2), ::testing::Values(0.0, 0.1)), name_of_case);

TEST(TrainingRanksDigest, TellsLayoutsApart) {
  const TrainingSpec spec = tiny_spec(tiny_gpt());
  EXPECT_NE(train(spec, 1, 2)[0].digest, train(spec, 2, 2)[0].digest);
  EXPECT_NE(train(spec, 2, 1)[0].digest, train(spec, 2, 2)[0].digest);  // another microbatch
}

/// Control slots are summed over the ranks before the first forward pass.
TEST(TrainingRanksControl, IsSummed) {
  const kernels::Backend backend = kernels::reference_backend();
  run_rank_threads(4, [&](Communicator& group) {
    TinyTraining training(tiny_spec(tiny_gpt()), backend, group);
    StepSetting setting{.weights = 10.0 + group.rank(), .stop = group.rank() == 2, .saving = group.rank() == 1};
    training.training().begin_step(setting);
    EXPECT_EQ(training.program().at<double>("step.control.reduced")[kWeightSum], 46.0);
    EXPECT_EQ(training.program().at<double>("step.control.reduced")[kStopRequests], 1.0);
    EXPECT_EQ(training.program().at<double>("step.control.reduced")[kSavesWriting], 1.0);
    EXPECT_EQ(training.program().at<kernels::StepScalars>("step.scalars")->gradient_scale, 1.0 / 46.0);
    const double factor = 46.0 / setting.weights;
    EXPECT_EQ(*training.program().at<double>("step.own_weight"), factor * factor);
    training.accumulate(0);
    const StepOutcome outcome = training.training().finish_step();
    EXPECT_EQ(outcome.weights, 46.0);
    EXPECT_TRUE(outcome.stop && outcome.saving);
    training.step(1);
    setting.stop = setting.saving = false, setting.weights = 0.0;
    training.training().begin_step(setting);
    EXPECT_EQ(training.program().at<kernels::StepScalars>("step.scalars")->gradient_scale, 0.0);
    EXPECT_TRUE(std::isnan(*training.program().at<double>("step.own_weight")));
    training.accumulate(2);
    EXPECT_FALSE(training.training().finish_step().stop);
  });
}

/// The gradient noise scale's small batch: what the plan sums is the mean over the data ranks of the squares of each
/// rank's gradient of its own mean loss, and the sum goes with the step's report, in no call of its own.
TEST(OwnGradients, AreSquaredAndAveragedByThePlan) {
  const kernels::Backend backend = kernels::cpu_backend();
  for (const Reduction reduction : {Reduction::fast, Reduction::ordered})
    for (const int zero : {0, 1, 2})
      for (const int replicas : {1, 2})
        run_rank_threads(4, [&](Communicator& group) {
          if (reduction == Reduction::ordered && zero > 1) return;
          TrainingSpec spec = tiny_spec(tiny_llama(), Precision::fp32);
          spec.zero = zero, spec.microbatches = 2, spec.plan.reduction = reduction;
          TinyTraining training(spec, backend, group, 1, 1, 1, replicas);
          EXPECT_EQ(training.training().knows_own_gradients(), zero < 2);
          const double own = training.own_weight_sum() + group.rank(), all = training.weight_sum() + 6;
          training.training().begin_step({kLearningRate, 1.0, own, 99});
          training.accumulate(0);
          double mean = 0.0;
          for (const float g : zero < 2 ? training.values<float>("gradients") : std::vector<float>{})
            mean += static_cast<double>(g) * g * (all / own) * (all / own) / 4;
          group.all_reduce(&mean, 1, DType::f64, ReduceOp::sum, Reduction::ordered);
          const size_t calls = group.count().calls;
          const StepOutcome outcome = training.training().finish_step();
          EXPECT_EQ(group.count().calls, calls) << "over all ranks, beside the plan";
          EXPECT_NEAR(outcome.own_square, mean, 1e-12 * mean);
          if (zero < 2) EXPECT_GT(outcome.own_square, 0.0);
        });
}

/// On the way while the backward pass still runs, or behind it: the square sums of all runs add up.
TEST(OwnGradients, AreTheSameHoweverEarlyTheirReductionTravels) {
  const kernels::Backend backend = kernels::cpu_backend();
  for (const int64_t microbatches : {1, 2})
    run_rank_threads(2, [&](Communicator& group) {
      TrainingSpec spec = tiny_spec(tiny_llama(), Precision::fp32);
      spec.microbatches = microbatches;
      TinyTraining training(spec, backend, group);
      double squares[2] = {};
      for (const bool early : {false, true}) {
        training.prepare(0, 0.0);
        training.accumulate(0, early);
        squares[early] = training.training().finish_step().own_square;
      }
      EXPECT_GT(squares[0], 0.0);
      EXPECT_EQ(squares[0], squares[1]);
    });
}

}  // namespace
}  // namespace capstan::testing
