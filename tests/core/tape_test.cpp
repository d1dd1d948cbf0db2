// label: plan
// What verify() promises: a tape that was changed in any of these ways is refused with an Error(internal) that names
// the node (or the gradient that is short of a contribution). The tapes are those of whole small decoders.

#include "core/tape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "tests/support/outcome.h"
#include "tests/support/tiny_training.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;

/// What a check says about the tape; empty when it finds nothing wrong.
std::string complaint(const std::function<void()>& check) { return support::complaint_of(ExitCode::internal, check); }

std::string verify_complaint(const Tape& tape) {
  return complaint([&] { verify(tape, "a mutation"); });
}

class Tapes : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  Tapes() : ranks_(std::get<1>(GetParam())) {
    const int which = std::get<0>(GetParam());
    DecoderConfig config = which == 0   ? testing::tiny_gpt()
                           : which == 1 ? testing::tiny_llama()
                                        : testing::tiny_alibi();
    config.dropout = 0.1, config.layers = 1;
    Device device{&backend_, {}};
    device.communicators.of.fill(self_.get());
    training_ = std::make_unique<TrainingProgram>(Mesh::data_parallel(ranks_, 0), device,
                                                  testing::tiny_spec(config, Precision::fp32));
    tape_ = training_->program().plan("train").tape;
  }

  void SetUp() override { ASSERT_EQ(verify_complaint(tape_), ""); }

  bool used(size_t id) const {
    const auto in = [&](const std::vector<TensorId>& ids) {
      return std::find(ids.begin(), ids.end(), static_cast<TensorId>(id)) != ids.end();
    };
    return std::any_of(tape_.nodes.begin(), tape_.nodes.end(),
                       [&](const Node& n) { return in(n.inputs) || in(n.outputs); });
  }
  /// Of verify(), or of the program that shall plan the tape.
  std::string planning_complaint(const Tape& tape) {
    const std::string found = verify_complaint(tape);
    return found.empty() ? complaint([&] { training_->program().add(fmt::format("changed{}", ++changes_), tape); })
                         : found;
  }
  bool trained_by(const Node& node) const { return node.part == Part::forward || node.part == Part::backward; }
  std::string describe(size_t node) const { return fmt::format("node {} ({})", node, tape_.nodes[node].op->name()); }

  int ranks_, changes_ = 0;
  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
  std::unique_ptr<TrainingProgram> training_;
  Tape tape_;
};

TEST_P(Tapes, EveryDroppedNodeIsFound) {
  for (size_t i = 0; i < tape_.nodes.size(); ++i) {
    if (!trained_by(tape_.nodes[i])) continue;
    Tape broken = tape_;
    broken.nodes.erase(broken.nodes.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_NE(verify_complaint(broken), "") << "without " << describe(i);
  }
}

TEST_P(Tapes, EveryRepeatedNodeIsFound) {
  for (size_t i = 0; i < tape_.nodes.size(); ++i) {
    if (!trained_by(tape_.nodes[i])) continue;
    Tape broken = tape_;
    broken.nodes.insert(broken.nodes.begin() + static_cast<std::ptrdiff_t>(i), broken.nodes[i]);
    EXPECT_NE(verify_complaint(broken), "") << "twice " << describe(i);
  }
}

TEST_P(Tapes, EveryNodeThatRunsBeforeItsOperandIsFound) {
  for (size_t late = 1; late < tape_.nodes.size(); ++late)
    for (const TensorId id : tape_.nodes[late].inputs)
      for (size_t early = 0; early < late; ++early) {
        const std::vector<TensorId>& made = tape_.nodes[early].outputs;
        if (id == kNoTensor || tape_.at(id).persistent >= 0 || std::find(made.begin(), made.end(), id) == made.end())
          continue;
        Tape broken = tape_;
        std::swap(broken.nodes[early], broken.nodes[late]);
        EXPECT_THAT(verify_complaint(broken), HasSubstr("before it is written"))
            << describe(early) << " <-> " << describe(late);
      }
}

TEST_P(Tapes, EveryChangedExtentIsFound) {
  for (size_t id = 0; id < tape_.tensors.size(); ++id)
    for (size_t dim = 0; dim < tape_.tensors[id].spec.shape.size(); ++dim) {
      if (!used(id)) continue;
      Tape broken = tape_;
      broken.tensors[id].spec.shape[dim] += 1;
      EXPECT_THAT(planning_complaint(broken), HasSubstr("node ")) << tape_.tensors[id].name << " dim " << dim;
    }
}

TEST_P(Tapes, EveryChangedRankIsFound) {
  for (size_t id = 0; id < tape_.tensors.size(); ++id) {
    if (!used(id)) continue;
    Tape broken = tape_;
    broken.tensors[id].spec.shape.insert(broken.tensors[id].spec.shape.begin(), 2);
    EXPECT_THAT(planning_complaint(broken), HasSubstr("node ")) << tape_.tensors[id].name;
  }
}

TEST_P(Tapes, EveryChangedDtypeIsFound) {
  for (size_t id = 0; id < tape_.tensors.size(); ++id)
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32, DType::i64}) {
      if (!used(id) || dtype == tape_.tensors[id].spec.dtype) continue;
      Tape broken = tape_;
      broken.tensors[id].spec.dtype = dtype;
      EXPECT_THAT(planning_complaint(broken), HasSubstr("node ")) << tape_.tensors[id].name << " as " << name_of(dtype);
    }
}

TEST_P(Tapes, EveryChangedPlacementIsFound) {
  if (ranks_ == 1) GTEST_SKIP() << "one rank has no placements";
  for (size_t id = 0; id < tape_.tensors.size(); ++id)
    for (const Placement placement : {Replicate, Shard(0), Shard(1), Partial}) {
      const TensorSpec& spec = tape_.tensors[id].spec;
      if (!used(id) || placement == on(spec.placements, Axis::dp)) continue;
      Tape broken = tape_;
      broken.tensors[id].spec.placements = with(spec.placements, Axis::dp, placement);
      EXPECT_THAT(planning_complaint(broken), HasSubstr("node "))
          << tape_.tensors[id].name << " as " << to_string(placement);
    }
}

TEST_P(Tapes, EveryOutputWrittenTwiceIsFound) {
  for (size_t i = 0; i < tape_.nodes.size(); ++i)
    for (size_t a = 0; a < tape_.nodes[i].outputs.size(); ++a)
      for (size_t b = 0; b < tape_.nodes[i].outputs.size(); ++b) {
        if (a == b || tape_.at(tape_.nodes[i].outputs[a]).persistent >= 0) continue;
        Tape broken = tape_;
        broken.nodes[i].outputs[b] = broken.nodes[i].outputs[a];
        EXPECT_THAT(verify_complaint(broken), HasSubstr(describe(i))) << "outputs " << a << " and " << b;
      }
}

TEST_P(Tapes, EveryWrongAccumulationOfAGradientIsFound) {
  int changed = 0;
  for (size_t i = 0; i < tape_.nodes.size(); ++i)
    for (const Accumulate accumulate : {Accumulate::never, Accumulate::after_first_microbatch, Accumulate::always}) {
      const Node& node = tape_.nodes[i];
      const bool gradient = std::any_of(node.outputs.begin(), node.outputs.end(),
                                        [&](TensorId id) { return id != kNoTensor && tape_.at(id).contributions > 0; });
      if (!gradient || node.part != Part::backward || accumulate == node.accumulate) continue;
      Tape broken = tape_;
      broken.nodes[i].accumulate = accumulate;
      EXPECT_THAT(verify_complaint(broken), HasSubstr(describe(i)));
      ++changed;
    }
  EXPECT_GT(changed, 10);
}

/// Operands with one meaning each: a persistent tensor of another rank in their place does not fit.
TEST_P(Tapes, AnOperandOfAnotherShapeIsFound) {
  int changed = 0;
  for (size_t i = 0; i < tape_.nodes.size(); ++i)
    for (size_t operand = 0; operand < tape_.nodes[i].inputs.size(); ++operand) {
      const TensorId id = tape_.nodes[i].inputs[operand];
      if (id == kNoTensor || tape_.at(id).persistent < 0 || tape_.nodes[i].part != Part::forward) continue;
      if (tape_.at(id).name.starts_with("step.")) continue;
      for (size_t other = 0; other < tape_.tensors.size(); ++other) {
        const TapeTensor& tensor = tape_.tensors[other];
        if (tensor.persistent < 0 || tensor.spec.shape.size() == tape_.at(id).spec.shape.size()) continue;
        Tape broken = tape_;
        broken.nodes[i].inputs[operand] = static_cast<TensorId>(other);
        EXPECT_THAT(verify_complaint(broken), HasSubstr(describe(i)))
            << "reads " << tensor.name << " for " << tape_.at(id).name;
        ++changed;
      }
    }
  EXPECT_GT(changed, 100);
}

std::string name_of_case(const ::testing::TestParamInfo<std::tuple<int, int>>& test) {
  const int which = std::get<0>(test.param);
  return fmt::format("{}_dp{}", which == 0 ? "gpt" : which == 1 ? "llama" : "alibi", std::get<1>(test.param));
}
INSTANTIATE_TEST_SUITE_P(Decoders, Tapes, ::testing::Combine(::testing::Values(0, 1, 2), ::testing::Values(1, 2)),
                         name_of_case);

/// A tape of one's own making.
class SmallTape : public ::testing::Test {
 protected:
  SmallTape() {
    space_.add("x", {{2, 3, 4}, DType::f64}, Purpose::input);
    space_.add("targets", {{2, 3}, DType::i32}, Purpose::input);
    space_.add("weights", {{2, 3}, DType::f32}, Purpose::input);
    space_.add("step.scalars", {{kernels::kStepScalars}, DType::f64}, Purpose::scalar);
    space_.add("loss", {{1}, DType::f64}, Purpose::scalar);
    for (const char* name : {"a", "b"}) {
      parameters_.declare({name, {4, 4}, {}, true, false});
      space_.add(name, {{4, 4}, DType::f64}, Purpose::parameter);
      space_.add(std::string("gradient.") + name, {{4, 4}, DType::f64}, Purpose::gradient);
    }
    device_.backend = &backend_;
    device_.communicators.of.fill(self_.get());
  }
  Recorder recorder() { return Recorder(Mesh{}, space_, parameters_, {true, DType::f64}); }
  Value product(Recorder& r, Value x, int parameter) { return linear(r, x, r.parameter(parameter), {}); }
  void loss_of(Recorder& r, Value logits) {
    cross_entropy(r, logits, r.persistent("targets"), r.persistent("weights"), r.persistent("loss"), 4);
  }

  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
  Device device_;
  PersistentSpace space_{Mesh{}};
  ParameterSet parameters_;
};

TEST_F(SmallTape, AParameterWithoutGradientIsNamed) {
  Recorder r = recorder();
  product(r, r.persistent("x"), 1);  // nothing depends on it
  loss_of(r, product(r, r.persistent("x"), 0));
  EXPECT_THAT(complaint([&] { record_backward(r); }), HasSubstr("no gradient reaches parameter b"));
}

TEST_F(SmallTape, ALooseGradientOfAParameterIsNamed) {
  Recorder r = recorder();
  loss_of(r, linear(r, r.persistent("x"), scale(r, r.parameter(0), 2.0), {}));
  EXPECT_THAT(complaint([&] { record_backward(r); }), HasSubstr("scale"));
}

TEST_F(SmallTape, ATensorThatCrossesPartsIsNamed) {
  Recorder r = recorder();
  const Value hidden = product(r, r.persistent("x"), 0);
  r.set_part(Part::update);
  scale(r, hidden, 2.0);
  EXPECT_THAT(complaint([&] { make_plan("p", r.tape(), space_, device_, {}); }),
              HasSubstr("linear.0 is made in part forward"));
}

TEST_F(SmallTape, AnOperandThatDoesNotFitIsRefusedWhileRecording) {
  Recorder r = recorder();
  EXPECT_THAT(complaint([&] { linear(r, r.persistent("weights"), r.parameter(0), {}); }), HasSubstr("linear"));
  EXPECT_THAT(complaint([&] { add(r, r.persistent("x"), r.parameter(0)); }), HasSubstr("add"));
  EXPECT_THAT(complaint([&] { r.persistent("nothing"); }), HasSubstr("nothing"));
}

TEST_F(SmallTape, TextTellsEveryDifference) {
  const auto text = [&](double factor, int parameter, Part part) {
    Recorder r = recorder();
    r.set_part(part);
    scale(r, product(r, r.persistent("x"), parameter), factor);
    return r.tape().to_text();
  };
  const std::string one = text(2.0, 0, Part::forward);
  EXPECT_EQ(one, text(2.0, 0, Part::forward));
  EXPECT_NE(one, text(3.0, 0, Part::forward));
  EXPECT_NE(one, text(2.0, 0, Part::update));
}

TEST(TapeNames, EveryPurposeAndPartHasItsOwn) {
  std::set<std::string> names;
  for (int i = 0; i < kPurposeCount; ++i) names.insert(name_of(static_cast<Purpose>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kPurposeCount));
  names.clear();
  for (int i = 0; i <= static_cast<int>(Part::update); ++i) names.insert(name_of(static_cast<Part>(i)));
  EXPECT_EQ(names.size(), 7u);
}

}  // namespace
}  // namespace capstan
