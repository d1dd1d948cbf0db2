// label: cpu
// The recorded training step of whole small decoders, on the reference kernels: gradients against finite differences in
// double, recomputation against none bit for bit, memory plan, guard words, digest.

#include "core/training_program.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

class Models : public ::testing::TestWithParam<int> {
 protected:
  static DecoderConfig model() { return GetParam() == 0 ? tiny_gpt() : GetParam() == 1 ? tiny_llama() : tiny_alibi(); }
  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
};

double loss_of(TinyTraining& training) {
  training.program().run("train", Part::forward);
  return training.program().at<double>("step.loss_sum")[0] / training.weight_sum();
}

TEST_P(Models, GradientsAreFiniteDifferences) {
  DecoderConfig config = model();
  config.dropout = 0.1;
  TinyTraining training(tiny_spec(config), backend_, *self_);
  training.prepare(0, 0.0);
  training.accumulate(0);
  const ParameterSet& parameters = training.program().parameters();
  for (size_t p = 0; p < parameters.size(); ++p) {
    const Parameter& parameter = parameters.at(static_cast<int>(p));
    const std::vector<double> gradient = training.values<double>("gradient." + parameter.name);
    double* weights = training.program().at<double>(parameter.name);
    double difference = 0.0, size = 0.0;
    const int64_t count = element_count(parameter.logical_shape());
    for (int64_t i = 0; i < count; i += std::max<int64_t>(1, count / 12)) {
      const double before = weights[i], h = 1e-5;
      weights[i] = before + h;
      const double up = loss_of(training);
      weights[i] = before - h;
      const double down = loss_of(training);
      weights[i] = before;
      const double numeric = (up - down) / (2 * h);
      difference += std::pow(numeric - gradient[static_cast<size_t>(i)], 2);
      size += numeric * numeric;
    }
    EXPECT_LE(std::sqrt(difference), 1e-7 * std::sqrt(size) + 1e-9) << parameter.name;
    // A bias of all keys moves every score of a query alike, which softmax does not see.
    const bool blind =
        config.positions != Positions::rotary && parameter.name.find("attention.k.bias") != std::string::npos;
    if (!blind) {
      EXPECT_GT(size, 1e-12) << parameter.name << " has no influence on the loss";
    }
  }
}

TEST_P(Models, LossFalls) {
  TinyTraining training(tiny_spec(model()), backend_, *self_);
  training.prepare(0, 1e-2);
  double first = 0.0, last = 0.0;
  for (int i = 0; i < 30; ++i) {
    training.prepare(i, 1e-2);
    training.accumulate(0);  // the same batch again: it must be learnt by heart
    training.training().finish_step();
    last = training.program().at<double>("step.report.reduced")[kLossSum] / training.weight_sum();
    if (i == 0) first = last;
  }
  EXPECT_NEAR(first, std::log(29.0), 0.3);
  EXPECT_LT(last, 0.6 * first);
}

TEST_P(Models, RecomputationIsBitwise) {
  DecoderConfig config = model();
  config.dropout = 0.2;
  TrainingSpec spec = tiny_spec(config, Precision::fp32);
  spec.microbatches = 2;
  std::vector<Step> expected;
  std::vector<float> weights;
  size_t plain_nodes = 0;
  for (const Recompute choice : {Recompute{}, Recompute{Recompute::Policy::selective},
                                 Recompute{Recompute::Policy::full}, Recompute{Recompute::Policy::full, 1}}) {
    spec.plan.recompute = choice;
    TinyTraining training(spec, backend_, *self_);
    const std::vector<Step> steps = training.steps(4);
    const size_t nodes = training.program().plan("train").tape.nodes.size();
    if (expected.empty()) {
      expected = steps, weights = training.values<float>("parameters"), plain_nodes = nodes;
      continue;
    }
    EXPECT_GT(nodes, plain_nodes);
    EXPECT_EQ(steps, expected);
    EXPECT_EQ(training.values<float>("parameters"), weights);
  }
}

TEST_P(Models, AccumulationIsTheWholeBatch) {
  TrainingSpec spec = tiny_spec(model());
  spec.microbatch = 4;
  TinyTraining whole(spec, backend_, *self_);
  spec.microbatch = 1, spec.microbatches = 4;
  TinyTraining parts(spec, backend_, *self_);
  const std::vector<Step> a = whole.steps(5), b = parts.steps(5);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i].loss, b[i].loss, 1e-12 * a[i].loss);
    EXPECT_NEAR(a[i].norm, b[i].norm, 1e-9 * a[i].norm);
  }
}

TEST_P(Models, RunTwiceIsBitwise) {
  TrainingSpec spec = tiny_spec(model(), Precision::bf16);
  TinyTraining first(spec, backend_, *self_), second(spec, backend_, *self_);
  EXPECT_EQ(first.steps(5), second.steps(5));
  EXPECT_EQ(first.values<float>("parameters"), second.values<float>("parameters"));
  EXPECT_EQ(first.program().digest(), second.program().digest());
}

TEST_P(Models, GuardWordsSurvive) {
  TrainingSpec spec = tiny_spec(model(), Precision::fp32);
  spec.plan.memory.guard = 64;
  spec.plan.memory.reuse = false;
  TinyTraining training(spec, backend_, *self_);
  training.program().fill_guards("train");
  training.steps(2);
  EXPECT_EQ(training.program().find_broken_guard("train"), "");
  training.program().at<float>(
      "step.report")[training.program().persistent().at(training.program().persistent().find("step.report")).bytes /
                     sizeof(float)] = 1.0f;
  EXPECT_NE(training.program().find_broken_guard("train"), "");
}

TEST_P(Models, ReusedMemoryChangesNothing) {
  TrainingSpec spec = tiny_spec(model(), Precision::fp32);
  TinyTraining shared(spec, backend_, *self_);
  spec.plan.memory.reuse = spec.plan.memory.in_place = false;
  TinyTraining apart(spec, backend_, *self_);
  EXPECT_EQ(shared.steps(4), apart.steps(4));
  EXPECT_LT(shared.program().transient_bytes(), apart.program().transient_bytes() / 2);
}

std::string name_of_model(const ::testing::TestParamInfo<int>& info) {
  return info.param == 0 ? "gpt" : info.param == 1 ? "llama" : "alibi";
}
INSTANTIATE_TEST_SUITE_P(Decoders, Models, ::testing::Values(0, 1, 2), name_of_model);

TEST(TrainingMemory, FullRecomputationHalvesTheArenaAtTwelveLayers) {
  DecoderConfig config = tiny_gpt();
  config.layers = 12, config.width = 64, config.context = 64;
  TrainingSpec spec = tiny_spec(config, Precision::fp32);
  spec.plan.recompute.policy = Recompute::Policy::full;
  const kernels::Backend backend = kernels::reference_backend();
  const std::unique_ptr<Communicator> self = self_communicator();
  TinyTraining training(spec, backend, *self);
  const MemoryPlan& memory = training.program().plan("train").memory;
  EXPECT_LT(memory.bytes, memory.sum_of_tensors / 2);
}

TEST(TrainingDocuments, ChangingOneDocumentLeavesTheOthersLossBitwise) {
  const kernels::Backend backend = kernels::reference_backend();
  const std::unique_ptr<Communicator> self = self_communicator();
  for (const DecoderConfig& config : {tiny_gpt(), tiny_llama(), tiny_alibi()}) {
    TinyTraining training(tiny_spec(config, Precision::fp32), backend, *self);
    const Plan& plan = training.program().plan("evaluate");
    const auto losses = [&] {
      training.program().run("evaluate", Part::forward);
      for (const Node& node : plan.tape.nodes)
        if (node.op->is_loss()) {
          const float* nll = static_cast<float*>(training.program().address(plan, node.outputs[2]));
          return std::vector<float>(nll, nll + 2 * config.context);
        }
      return std::vector<float>{};
    };
    training.fill_microbatch(0, 0);
    const std::vector<float> before = losses();
    const int64_t half = testing::second_document(config.context),
                  second = config.context;  // sample 1 holds two documents
    for (int64_t t = 0; t < half; ++t) training.program().at<int32_t>("input.tokens")[second + t] = 3;
    const std::vector<float> after = losses();
    ASSERT_EQ(before.size(), after.size());
    int changed = 0;
    for (int64_t t = 0; t < 2 * config.context; ++t) {
      const bool edited = t >= second && t < second + half;
      changed += edited && before[static_cast<size_t>(t)] != after[static_cast<size_t>(t)];
      if (!edited) {
        EXPECT_EQ(before[static_cast<size_t>(t)], after[static_cast<size_t>(t)]) << "token " << t;
      }
    }
    EXPECT_GT(changed, 3);
  }
}

}  // namespace
}  // namespace capstan::testing
