// label: cpu
// The places where the next model is meant to fit without a change to the engine: masks and position biases as values,
// optimizer state as named tensors, and one program with several modules, losses, shared and frozen parameters.

#include <gtest/gtest.h>

#include "core/models/decoder.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "tests/core/small_program.h"
#include "tests/support/tiny_training.h"

namespace capstan {
namespace {

using testing::noise;
using testing::SmallProgram;

struct MaskCase {
  const char* name;
  bool causal = true;
  int64_t window = 0;
  bool documents = false, key_lengths = false, prefix = false, slopes = false;
  int64_t keys = 6;
  double dropout = 0.0;
};

constexpr int64_t kBatch = 2, kQueries = 6, kWidth = 8, kKvWidth = 4;

class AttentionMasks : public ::testing::TestWithParam<MaskCase> {
 protected:
  /// q from x, k and v from y, both inputs; every mask operand that the case asks for.
  void build(SmallProgram& small) {
    const MaskCase& c = GetParam();
    small.add("x", {kBatch, kQueries, kWidth}, DType::f64), small.add("y", {kBatch, c.keys, kWidth}, DType::f64);
    small.add("query_documents", {kBatch, kQueries}, DType::i32),
        small.add("key_documents", {kBatch, c.keys}, DType::i32);
    small.add("key_lengths", {kBatch}, DType::i32), small.add("prefix_lengths", {kBatch}, DType::i32);
    small.add("slopes", {4}, DType::f32);
    const int q = small.parameter("q", {kWidth, kWidth}), k = small.parameter("k", {kKvWidth, kWidth}),
              v = small.parameter("v", {kKvWidth, kWidth});
    small.lay_out_state();
    small.build([&](Recorder& r) {
      AttentionMaskSpec mask;
      mask.causal = c.causal, mask.window = c.window;
      if (c.documents)
        mask.query_documents = r.persistent("query_documents"), mask.key_documents = r.persistent("key_documents");
      if (c.key_lengths) mask.key_lengths = r.persistent("key_lengths");
      if (c.prefix) mask.prefix_lengths = r.persistent("prefix_lengths");
      if (c.slopes) mask.alibi_slopes = r.persistent("slopes");
      const auto product = [&](const char* from, int weight) {
        return linear(r, r.persistent(from), r.parameter(weight), {});
      };
      const AttentionSpec spec{4, 2, 0.7, c.dropout, 5};
      small.add_loss(r, attention(r, product("x", q), product("y", k), product("y", v), spec, mask), kWidth, "loss");
    });
    fill(small.program());
  }

  static void fill(Program& program) {
    const int64_t keys = GetParam().keys;
    for (int64_t i = 0; i < kBatch * kQueries * kWidth; ++i) program.at<double>("x")[i] = noise(100, i);
    for (int64_t i = 0; i < kBatch * keys * kWidth; ++i) program.at<double>("y")[i] = noise(101, i);
    for (int64_t b = 0; b < kBatch; ++b) {
      for (int64_t i = 0; i < kQueries; ++i) program.at<int32_t>("query_documents")[b * kQueries + i] = i >= 2 + b;
      for (int64_t j = 0; j < keys; ++j) program.at<int32_t>("key_documents")[b * keys + j] = j >= 2 + b;
      program.at<int32_t>("key_lengths")[b] = static_cast<int32_t>(keys - b);
      program.at<int32_t>("prefix_lengths")[b] = static_cast<int32_t>(2 + b);
    }
    for (int h = 0; h < 4; ++h) program.at<float>("slopes")[h] = 0.3f / static_cast<float>(1 + h);
    program.at<uint64_t>("step.random")[0] = 17;
  }

  /// Does key j of sequence b reach query i? The rules of kernels/attention.h, said once more.
  static bool visible(int64_t b, int64_t i, int64_t j) {
    const MaskCase& c = GetParam();
    const int64_t length = c.key_lengths ? c.keys - b : c.keys, place = i + (c.key_lengths ? length - kQueries : 0);
    if (j >= length) return false;
    if (c.causal && j > place && !(c.prefix && j < 2 + b)) return false;
    if (c.window > 0 && (place - j >= c.window || (!c.causal && j - place >= c.window))) return false;
    return !c.documents || (i >= 2 + b) == (j >= 2 + b);
  }

  std::vector<double> per_token(SmallProgram& small) {
    small.loss();
    const Plan& plan = small.program().plan("train");
    for (const Node& node : plan.tape.nodes)
      if (node.op->is_loss()) {
        const double* nll = static_cast<double*>(small.program().address(plan, node.outputs[2]));
        return {nll, nll + kBatch * kQueries};
      }
    return {};
  }
};

TEST_P(AttentionMasks, GradientsAreFiniteDifferences) {
  SmallProgram small;
  build(small);
  small.expect_gradients_are_finite_differences();
}

/// A key moves exactly the queries that may see it.
TEST_P(AttentionMasks, KeysReachTheirQueriesAndNoOther) {
  PlanOptions apart;
  apart.memory.reuse = apart.memory.in_place = false;
  SmallProgram small(apart);
  build(small);
  const std::vector<double> before = per_token(small);
  const int64_t keys = GetParam().keys;
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t j = 0; j < keys; ++j) {
      double* y = small.program().at<double>("y") + (b * keys + j) * kWidth;
      for (int64_t c = 0; c < kWidth; ++c) y[c] += 0.5 + 0.1 * static_cast<double>(c);
      const std::vector<double> after = per_token(small);
      for (int64_t other = 0; other < kBatch; ++other)
        for (int64_t i = 0; i < kQueries; ++i) {
          const size_t token = static_cast<size_t>(other * kQueries + i);
          const bool moved = before[token] != after[token], expected = other == b && visible(b, i, j);
          const bool dropped = expected && GetParam().dropout > 0.0;  // a weight of zero hides the key
          EXPECT_TRUE(moved == expected || dropped) << "key " << j << " of " << b << ", query " << i << " of " << other;
        }
      fill(small.program());
    }
}

INSTANTIATE_TEST_SUITE_P(
    Seams, AttentionMasks,
    ::testing::Values(
        MaskCase{.name = "causal"}, MaskCase{.name = "both_ways", .causal = false},
        MaskCase{.name = "window", .window = 3}, MaskCase{.name = "window_both_ways", .causal = false, .window = 2},
        MaskCase{.name = "documents", .documents = true},
        MaskCase{.name = "documents_both_ways", .causal = false, .documents = true},
        MaskCase{.name = "prefix", .prefix = true}, MaskCase{.name = "slopes", .slopes = true},
        MaskCase{.name = "slopes_both_ways", .causal = false, .slopes = true},
        MaskCase{.name = "cross", .causal = false, .keys = 9},
        MaskCase{.name = "cross_fewer_keys", .causal = false, .keys = 3},
        MaskCase{.name = "cross_documents", .causal = false, .documents = true, .keys = 8},
        MaskCase{.name = "lengths", .key_lengths = true, .keys = 9}, MaskCase{.name = "dropout", .dropout = 0.3},
        MaskCase{.name = "all", .window = 4, .documents = true, .prefix = true, .slopes = true, .dropout = 0.2}),
    [](const auto& test) { return std::string(test.param.name); });

/// dy is read by the product and is the sum so far of the same tensor, and the product is the last to read it where its
/// weight is frozen. (A product that goes row by row forgives being written over; memory_test holds the rule itself.)
TEST(ResidualProduct, HasItsGradient) {
  for (const bool frozen : {false, true}) {
    SmallProgram small;
    small.add("x", {2, 3, 8}, DType::f64);
    const int in = small.parameter("in", {8, 8}), weight = small.parameter("w", {8, 8}, frozen);
    small.lay_out_state();
    small.build([&](Recorder& r) {
      const Value x = linear(r, r.persistent("x"), r.parameter(in), {});
      small.add_loss(r, add(r, x, linear(r, x, r.parameter(weight), {})), 8, "loss");
    });
    for (int64_t i = 0; i < 48; ++i) small.program().at<double>("x")[i] = noise(1, i);
    small.expect_gradients_are_finite_differences();
  }
}

// ---- several modules, losses, shared and frozen parameters ----------------------------------------------------------

/// A student and a helper with a loss each, a frozen teacher whose hidden states go into the student's, and one
/// projection that student and helper share.
class TwoModules : public ::testing::Test {
 protected:
  TwoModules() {
    DecoderConfig config = testing::tiny_gpt();
    config.layers = 1, config.width = 8, config.heads = 2, config.context = 4, config.vocabulary = 11;
    DecoderConfig other = testing::tiny_llama();
    other.layers = 1, other.width = 8, other.heads = 2, other.kv_heads = 1, other.hidden = 12, other.context = 4,
    other.vocabulary = 11;
    ParameterSet declared;
    const Decoder student(config, declared, "student."), helper(other, declared, "helper."),
        teacher(config, declared, "teacher.");
    for (size_t i = 0; i < declared.size(); ++i) {
      Parameter parameter = declared.at(static_cast<int>(i));
      parameter.frozen = parameter.name.starts_with("teacher.");
      small_.program().parameters().declare(parameter);
    }
    const int shared = small_.parameter("shared", {8, 8});
    small_.add("tokens", {2, 4}, DType::i32), small_.add("positions", {2, 4}, DType::i32);
    small_.lay_out_state();
    small_.build([&](Recorder& r) {
      DecoderInputs inputs;
      inputs.tokens = r.persistent("tokens"), inputs.positions = r.persistent("positions");
      const Value seen = add(r, student.hidden(r, inputs), teacher.hidden(r, inputs));
      small_.add_loss(r, student.logits(r, linear(r, seen, r.parameter(shared), {})), 11, "student.loss");
      const Value helped = linear(r, helper.hidden(r, inputs), r.parameter(shared), {});
      small_.add_loss(r, helper.logits(r, helped), 11, "helper.loss");
    });
    for (int64_t i = 0; i < 8; ++i) {
      small_.program().at<int32_t>("tokens")[i] = static_cast<int32_t>((i * 5 + 2) % 11);
      small_.program().at<int32_t>("positions")[i] = static_cast<int32_t>(i % 4);
    }
  }
  std::vector<std::string> names(bool frozen) {
    std::vector<std::string> found;
    const ParameterSet& parameters = small_.program().parameters();
    for (size_t i = 0; i < parameters.size(); ++i)
      if (parameters.at(static_cast<int>(i)).frozen == frozen) found.push_back(parameters.at(static_cast<int>(i)).name);
    return found;
  }
  SmallProgram small_;
};

TEST_F(TwoModules, GradientsAreFiniteDifferences) { small_.expect_gradients_are_finite_differences(); }

TEST_F(TwoModules, FrozenParametersHaveNoStateAndDoNotMove) {
  EXPECT_GT(names(true).size(), 10u);
  std::vector<std::vector<double>> before;
  for (const std::string& name : names(true)) {
    for (const char* state : {"gradient.", "moment1.", "moment2."})
      EXPECT_EQ(small_.program().persistent().find(state + name), -1);
    before.push_back(small_.values(name));
  }
  for (const TapeTensor& tensor : small_.program().plan("train").tape.tensors)
    EXPECT_FALSE(tensor.needs_gradient && tensor.name.starts_with("teacher.")) << tensor.name;
  std::vector<std::vector<double>> trained;
  for (const std::string& name : names(false)) trained.push_back(small_.values(name));
  const double first = small_.loss();
  for (int step = 0; step < 5; ++step) {
    small_.loss();
    small_.program().run("train", Part::backward), small_.program().run("train", Part::update);
  }
  EXPECT_LT(small_.loss(), first);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(small_.values(names(true)[i]), before[i]) << names(true)[i];
  for (size_t i = 0; i < trained.size(); ++i) EXPECT_NE(small_.values(names(false)[i]), trained[i]) << names(false)[i];
}

// ---- optimizer state as named tensors -------------------------------------------------------------------------------

class State : public ::testing::Test {
 protected:
  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
};

TEST_F(State, EveryTensorIsAViewOfTheFlatBuffer) {
  testing::TinyTraining training(testing::tiny_spec(testing::tiny_llama(), Precision::bf16), backend_, *self_);
  const PersistentSpace& space = training.program().persistent();
  const ParameterSet& parameters = training.program().parameters();
  const FlatLayout& layout = training.training().layout();
  for (const auto& [flat, prefix, bytes] : {std::tuple<const char*, std::string, size_t>{"parameters", "", 4},
                                            {"working", "working.", 2},
                                            {"gradients", "gradient.", 4},
                                            {"moment1", "moment1.", 4},
                                            {"moment2", "moment2.", 4}})
    for (size_t p = 0; p < parameters.size(); ++p) {
      const int view = space.find(prefix + parameters.at(static_cast<int>(p)).name);
      ASSERT_GE(view, 0) << prefix << parameters.at(static_cast<int>(p)).name;
      EXPECT_EQ(space.at(view).parent, space.find(flat));
      EXPECT_EQ(space.at(view).offset_in_parent, static_cast<size_t>(layout.first[p]) * bytes);
      EXPECT_EQ(space.at(view).spec.shape, parameters.at(static_cast<int>(p)).shape);
    }
  EXPECT_EQ(training.training().state_names().size(), 3 * parameters.size());
}

TEST_F(State, PaddingStaysZero) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    testing::TinyTraining training(testing::tiny_spec(testing::tiny_llama(), precision), backend_, *self_);
    training.steps(4);
    const ParameterSet& parameters = training.program().parameters();
    const FlatLayout& layout = training.training().layout();
    std::vector<bool> meant(static_cast<size_t>(layout.elements));
    for (size_t p = 0; p < parameters.size(); ++p)
      std::fill_n(meant.begin() + layout.first[p], element_count(parameters.at(static_cast<int>(p)).logical_shape()),
                  true);
    int64_t padding = 0;
    for (const char* flat : {"parameters", "gradients", "moment1", "moment2"}) {
      const std::vector<float> values = training.values<float>(flat);
      ASSERT_EQ(values.size(), meant.size());
      for (size_t i = 0; i < values.size(); ++i) {
        padding += !meant[i];
        EXPECT_TRUE(meant[i] || values[i] == 0.0f) << flat << " " << i << " is " << values[i];
      }
    }
    EXPECT_GE(padding, 4 * 2 * 3 * 16) << "two tables have three rows of padding each";
  }
}

TEST_F(State, WeightDecayTouchesMatricesOnly) {
  testing::TinyTraining training(testing::tiny_spec(testing::tiny_gpt()), backend_, *self_);
  const std::vector<double> before = training.values<double>("parameters");
  training.prepare(0, 0.5);
  training.training().run_microbatches([&](int64_t) {
    training.fill_microbatch(0, 0);
    std::fill_n(training.program().at<float>("input.loss_weights"), 2 * 12, 0.0f);
  });
  training.training().finish_step();
  const std::vector<double> after = training.values<double>("parameters");
  const FlatLayout& layout = training.training().layout();
  const double kept = 1.0 - 0.5 * training.training().spec().optimizer.weight_decay;
  int64_t both[2] = {0, 0};
  for (const FlatRun& run : layout.runs)
    for (int64_t i = run.first; i < run.end(); ++i) {
      const double was = before[static_cast<size_t>(i)];
      EXPECT_NEAR(after[static_cast<size_t>(i)], run.decay ? kept * was : was, 1e-15) << i;
      ++both[run.decay];
    }
  EXPECT_TRUE(both[0] > 0 && both[1] > both[0] && both[0] + both[1] == static_cast<int64_t>(before.size()));
}

}  // namespace
}  // namespace capstan
