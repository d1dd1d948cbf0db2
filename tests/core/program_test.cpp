// label: plan
// Program: parts are replayed node by node in recorded order, an observer sees each node once, memory is taken once,
// and plans tell themselves apart by their digest.

#include "core/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "tests/support/tiny_training.h"

namespace capstan {
namespace {

using testing::tiny_gpt;
using testing::tiny_spec;
using testing::TinyTraining;

class Recording final : public StepObserver {
 public:
  void before(const Plan& plan, size_t node) override {
    EXPECT_FALSE(inside_) << "node " << node << " began inside another";
    inside_ = true;
    seen.emplace_back(plan.name, node);
  }
  void after(const Plan& plan, size_t node) override {
    EXPECT_TRUE(inside_);
    inside_ = false;
    EXPECT_EQ(seen.back(), std::make_pair(plan.name, node));
  }
  std::vector<std::pair<std::string, size_t>> seen;

 private:
  bool inside_ = false;
};

class Programs : public ::testing::Test {
 protected:
  static std::vector<std::pair<std::string, size_t>> nodes_of(const Plan& plan, std::initializer_list<Part> parts) {
    std::vector<std::pair<std::string, size_t>> nodes;
    for (const Part part : parts)
      for (size_t i = 0; i < plan.tape.nodes.size(); ++i)
        if (plan.tape.nodes[i].part == part) nodes.emplace_back(plan.name, i);
    return nodes;
  }
  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
};

TEST_F(Programs, AnObserverSeesEveryNodeOnceInOrder) {
  for (const Recompute::Policy policy : {Recompute::Policy::none, Recompute::Policy::full}) {
    TrainingSpec spec = tiny_spec(tiny_gpt());
    spec.plan.recompute.policy = policy;
    TinyTraining training(spec, backend_, *self_);
    const Plan& plan = training.program().plan("train");
    Recording recording;
    training.program().observe(&recording);
    training.step(0);
    const auto wanted = nodes_of(plan, {Part::begin, Part::forward, Part::backward, Part::update});
    EXPECT_EQ(wanted.size(), plan.tape.nodes.size());
    EXPECT_EQ(recording.seen, wanted);
    training.program().observe(nullptr);
    training.step(1);
    EXPECT_EQ(recording.seen.size(), wanted.size()) << "an observer that was taken away still sees";
  }
}

TEST_F(Programs, WatchingChangesNothing) {
  TinyTraining watched(tiny_spec(tiny_gpt(), Precision::fp32), backend_, *self_),
      alone(tiny_spec(tiny_gpt(), Precision::fp32), backend_, *self_);
  Recording recording;
  watched.program().observe(&recording);
  EXPECT_EQ(watched.steps(3), alone.steps(3));
  EXPECT_EQ(watched.values<float>("parameters"), alone.values<float>("parameters"));
}

TEST_F(Programs, NamesWhatItDoesNotHave) {
  TinyTraining training(tiny_spec(tiny_gpt()), backend_, *self_);
  Program& program = training.program();
  EXPECT_THROW(program.plan("decode"), Error);
  EXPECT_THROW(program.run("decode", Part::forward), Error);
  EXPECT_THROW(program.run("train", Part::carry), Error);
  EXPECT_THROW(program.address("nothing"), Error);
  EXPECT_TRUE(program.has("train", Part::begin)) << "one rank has nothing to sum, but a step to begin";
  EXPECT_TRUE(program.has("evaluate", Part::forward));
  EXPECT_THROW(program.add("late", program.plan("train").tape), Error) << "the arena has been taken";
}

TEST_F(Programs, OneArenaServesAllPlans) {
  TinyTraining training(tiny_spec(tiny_gpt()), backend_, *self_);
  const Program& program = training.program();
  size_t most = 0;
  for (const auto& [name, plan] : program.plans()) most = std::max(most, plan.memory.bytes);
  EXPECT_EQ(program.plans().size(), 2u);
  EXPECT_EQ(program.transient_bytes(), most);
  const char* first = static_cast<const char*>(program.address(0));
  for (const PersistentTensor& tensor : program.persistent().all()) {
    const char* at = static_cast<const char*>(program.address(tensor.name));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % kAlignment, 0u);
    EXPECT_TRUE(at >= first && at + tensor.bytes <= first + program.persistent_bytes()) << tensor.name;
    for (const PersistentTensor& other : program.persistent().all()) {
      if (&tensor == &other || tensor.parent >= 0 || other.parent >= 0) continue;
      const char* there = static_cast<const char*>(program.address(other.name));
      EXPECT_TRUE(at + tensor.bytes <= there || there + other.bytes <= at) << tensor.name << " and " << other.name;
    }
  }
}

TEST_F(Programs, PersistentNamesAreUniqueAndViewsLieInside) {
  PersistentSpace space{Mesh{}};
  const int flat = space.add("flat", {{16}, DType::f32}, Purpose::parameter);
  EXPECT_THROW(space.add("flat", {{1}, DType::f32}, Purpose::parameter), Error);
  EXPECT_NO_THROW(space.add_view("last", {{4}, DType::f32}, flat, 48));
  EXPECT_THROW(space.add_view("beyond", {{4}, DType::f32}, flat, 52), Error);
  EXPECT_EQ(space.find("nothing"), -1);
}

TEST_F(Programs, TheDigestTellsSettingsApart) {
  const auto digest = [&](const std::function<void(TrainingSpec&)>& change) {
    TrainingSpec spec = tiny_spec(tiny_gpt(), Precision::fp32);
    change(spec);
    return TinyTraining(spec, backend_, *self_).program().digest();
  };
  const std::string plain = digest([](TrainingSpec&) {});
  EXPECT_EQ(plain, digest([](TrainingSpec& spec) { spec.seed = 2; })) << "data are no part of a plan";
  const std::vector<std::function<void(TrainingSpec&)>> changes{
      [](TrainingSpec& spec) { spec.model.layers = 1; },
      [](TrainingSpec& spec) { spec.model.dropout = 0.1; },
      [](TrainingSpec& spec) { spec.model.window = 3; },
      [](TrainingSpec& spec) { spec.model.norm_epsilon = 1e-6; },
      [](TrainingSpec& spec) { spec.model.activation = Activation::gelu; },
      [](TrainingSpec& spec) { spec.microbatch = 1; },
      [](TrainingSpec& spec) { spec.precision = Precision::bf16; },
      [](TrainingSpec& spec) { spec.optimizer.beta2 = 0.99; },
      [](TrainingSpec& spec) { spec.optimizer.weight_decay = 0.0; },
      [](TrainingSpec& spec) { spec.separate_documents = false; },
      [](TrainingSpec& spec) { spec.plan.recompute.policy = Recompute::Policy::full; },
      [](TrainingSpec& spec) { spec.plan.memory.in_place = false; },
  };
  std::vector<std::string> digests{plain};
  for (size_t i = 0; i < changes.size(); ++i) {
    const std::string changed = digest(changes[i]);
    EXPECT_THAT(digests, ::testing::Not(::testing::Contains(changed))) << "change " << i;
    digests.push_back(changed);
  }
}

TEST_F(Programs, FlopsCountRecomputationOnlyWhenAsked) {
  TrainingSpec spec = tiny_spec(tiny_gpt());
  TinyTraining plain(spec, backend_, *self_);
  spec.plan.recompute.policy = Recompute::Policy::full;
  TinyTraining again(spec, backend_, *self_);
  const Plan &a = plain.program().plan("train"), &b = again.program().plan("train");
  EXPECT_GT(a.flops(Part::forward, true), 1e5);
  EXPECT_EQ(a.flops(Part::forward, true), b.flops(Part::forward, true));
  EXPECT_EQ(a.flops(Part::backward, true), b.flops(Part::backward, false));
  EXPECT_GT(b.flops(Part::backward, true), b.flops(Part::backward, false) * 1.2);
  EXPECT_NEAR(a.flops(Part::backward, true) / a.flops(Part::forward, true), 2.0, 0.3);
}

TEST_F(Programs, AtMostTwoStepsAreUnderWay) {
  TinyTraining training(tiny_spec(tiny_gpt()), backend_, *self_);
  TrainingProgram& steps = training.training();
  EXPECT_THROW(steps.take_outcome(), Error);
  training.step(0);
  EXPECT_THROW(steps.take_outcome(), Error);
  for (int i = 1; i < 3; ++i) training.prepare(i, 1e-2), training.accumulate(i), steps.end_step();
  EXPECT_EQ(steps.outcomes(), 2u);
  const std::vector<double> before = training.values<double>("parameters");
  EXPECT_THROW(steps.end_step(), Error);
  EXPECT_EQ(training.values<double>("parameters") == before, true) << "what is refused is not begun";
  steps.take_outcome(), steps.take_outcome();
  EXPECT_THROW(steps.take_outcome(), Error);
}

/// The first step after a resume has the corrections of its number.
TEST_F(Programs, UpdatesAreCountedFromWhereARunBegins) {
  TinyTraining whole(tiny_spec(tiny_gpt(), Precision::fp32), backend_, *self_),
      again(tiny_spec(tiny_gpt(), Precision::fp32), backend_, *self_);
  whole.steps(3);
  for (const char* name : {"parameters", "moment1", "moment2"}) {
    const std::vector<float> values = whole.values<float>(name);
    std::copy(values.begin(), values.end(), again.program().at<float>(name));
  }
  EXPECT_EQ(whole.training().updates(), 3);
  again.training().set_updates(3);
  const auto& scalars = *again.program().at<kernels::StepScalars>("step.scalars");
  EXPECT_EQ(again.step(3), whole.step(3));
  EXPECT_EQ(scalars.correction1, 1.0 - std::pow(0.9, 4.0));
  EXPECT_EQ(scalars.correction2, 1.0 - std::pow(0.95, 4.0));
  EXPECT_TRUE(again.values<float>("parameters") == whole.values<float>("parameters"));
}

TEST_F(Programs, ANotFiniteGradientChangesNothing) {
  TinyTraining training(tiny_spec(tiny_gpt(), Precision::fp32), backend_, *self_);
  training.step(0);
  const auto state = [&] {
    std::vector<std::vector<float>> all;
    for (const char* flat : {"parameters", "moment1", "moment2"}) all.push_back(training.values<float>(flat));
    return all;
  };
  const std::vector<std::vector<float>> before = state();
  training.prepare(1, 1e-2);
  training.training().run_microbatches([&](int64_t) {
    training.fill_microbatch(1, 0);
    training.program().at<float>("input.loss_weights")[0] = std::numeric_limits<float>::quiet_NaN();
  });
  const StepOutcome outcome = training.training().finish_step();
  EXPECT_TRUE(outcome.skipped);
  EXPECT_EQ(state(), before);
  EXPECT_TRUE(std::isfinite(training.step(2).loss));
  EXPECT_NE(state(), before);
}

}  // namespace
}  // namespace capstan
