// label: ranks
// Context parallelism is its unsharded twin: the ring of attention with every mask, with tensor, sequence, data and
// pipeline parallelism, ZeRO, recomputation, accumulation and dropout; documents end inside chunks. Bytes on the wire
// and memory of keys and values are those of the formulas.

#include "core/backward.h"
#include "core/ops/attention.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/linear.h"
#include "tests/parallel/context_twin.h"

namespace capstan::testing {
namespace {

using enum ScheduleKind;

/// A covering set; context_product_test.cpp has the whole product.
TEST(Context, IsItsTwin) {
  for (const ContextModel model : {kGpt, kLlama, kWindow}) {
    expect_context_is_its_twin(model, context(model == kGpt ? 2 : 4));
    Layout layout = context(2, 2);
    expect_context_is_its_twin(model, layout);
    layout.sequence_parallel = true, layout.recompute = model == kGpt ? Policy::selective : Policy::full;
    expect_context_is_its_twin(model, layout);
    layout.dp = 2, layout.zero = model == kLlama ? 3 : 1;
    expect_context_is_its_twin(model, layout);
  }
  Layout layout = context(4, 2, 2);
  layout.sequence_parallel = true, layout.zero = 2;
  expect_context_is_its_twin(kLlama, layout);
}

/// With four tensor parallel ranks two share a key/value head, and a rank's share of the stream is part of a chunk;
/// with three ranks of cp, or of tp, shares end inside of chunks.
TEST(Context, HeadsSharedAndOddShares) {
  Layout layout = context(2, 4);
  expect_context_is_its_twin(kLlama, layout);
  layout.sequence_parallel = true, layout.recompute = Policy::selective;
  expect_context_is_its_twin(kLlama, layout);
  DecoderConfig config = tiny_llama();
  config.heads = 6, config.kv_heads = 3, config.width = 24, config.context = 24, config.dropout = 0.2;
  const TwinOutcome one = train_twin(tiny_spec(config), {}, kernels::reference_backend());
  layout.tp = 3;
  expect_twins(one, train_twin(tiny_spec(config), layout, kernels::reference_backend()), 1e-12, 1e-9);
  layout.tp = 1, layout.cp = 3, layout.sequence_parallel = false;
  expect_twins(one, train_twin(tiny_spec(config), layout, kernels::reference_backend()), 1e-12, 1e-9);
}

TEST(Context, DropoutFollowsTheLogicalElement) {
  for (const ContextModel model : {kGpt, kLlama}) {
    expect_context_is_its_twin(model, context(2, 1, 2), 0.2);
    Layout layout = context(4, 2);
    expect_context_is_its_twin(model, layout, 0.2);
    layout.sequence_parallel = true, layout.recompute = Policy::selective;
    expect_context_is_its_twin(model, layout, 0.2);
  }
}

TEST(Context, GoesThroughPipelines) {
  for (const ContextModel model : {kGpt, kLlama}) {
    Layout layout = context(2);
    layout.pp = 2, layout.schedule = model == kGpt ? one_forward_one_backward : zero_bubble;
    expect_context_is_its_twin(model, layout, 0.0, 4);
    layout.tp = 2, layout.sequence_parallel = true, layout.recompute = Policy::selective;
    expect_context_is_its_twin(model, layout, 0.2, 2);
    layout.dp = 2, layout.zero = 2, layout.recompute = Policy::full;
    expect_context_is_its_twin(model, layout, 0.0, 2);
  }
}

TEST(Context, MicrobatchesAddUpUnderEveryStageOfZero) {
  for (const int zero : {0, 1, 2, 3}) {
    Layout layout = context(2, 1, 2);
    layout.zero = zero;
    expect_context_is_its_twin(kLlama, layout, 0.0, 2);
  }
}

TEST(Context, OrderedSumsStayBitwiseAcrossDataRanks) {
  TrainingSpec spec = tiny_spec(config_of(kLlama), Precision::fp32);
  spec.plan.reduction = Reduction::ordered;
  const TwinOutcome one = train_twin(spec, context(2), kernels::reference_backend(), 4);
  const TwinOutcome two = train_twin(spec, context(2, 1, 2), kernels::reference_backend(), 2);
  EXPECT_EQ(one.steps, two.steps);
  EXPECT_TRUE(one.state == two.state) << "weights or moments differ";
}

TEST(Context, SingleAndHalfPrecisionOnTheFastKernels) {
  const kernels::Backend backend = kernels::cpu_backend();
  for (const auto& [precision, limit] : {std::pair{Precision::fp32, 1e-5}, {Precision::bf16, 2e-2}})
    for (const ContextModel model : {kGpt, kLlama, kWindow}) {
      DecoderConfig config = config_of(model);
      config.context = 48, config.dropout = model == kLlama ? 0.2 : 0.0;
      const TwinOutcome one = train_twin(tiny_spec(config, precision), {}, backend);
      for (const Layout& layout : {context(4), context(2, 2)}) {
        const TwinOutcome many = train_twin(tiny_spec(config, precision), layout, backend);
        for (size_t i = 0; i < one.steps.size(); ++i)
          EXPECT_NEAR(many.steps[i].loss, one.steps[i].loss, limit * one.steps[i].loss) << name_of(layout);
      }
    }
}

/// Weights of samples count once per data rank, requests to stop of all; a loss that is not finite on one rank of cp
/// names its data rank to all, and all skip.
TEST(ContextControl, IsSummedOnceOverSamplesAndOverAllRanks) {
  const kernels::Backend backend = kernels::reference_backend();
  for (int asked = 0; asked < 4; ++asked)
    run_rank_threads(4, [&](Communicator& world) {
      TinyTraining training(tiny_spec(config_of(kGpt)), backend, world, 1, 1, 2);
      training.training().begin_step(
          {.weights = 10.0 + training.mesh().coordinate(Axis::dp), .stop = world.rank() == asked});
      EXPECT_EQ(training.program().at<double>("step.control.reduced")[kWeightSum], 21.0);
      EXPECT_EQ(training.program().at<double>("step.control.reduced")[kStopRequests], 1.0);
      training.prepare(0, 1e-2);
      training.training().run_microbatches([&](int64_t m) {
        training.fill_microbatch(0, m);
        if (world.rank() == asked) training.program().at<float>("input.loss_weights", m)[1] = NAN;
      });
      const StepOutcome outcome = training.training().finish_step();
      EXPECT_TRUE(outcome.skipped) << "rank " << world.rank();
      EXPECT_EQ(outcome.bad_ranks, std::vector<int>{asked / 2});
    });
}

// ---- the op alone: masks that no model here has

struct MaskCase {
  const char* name;
  bool causal = true;
  int64_t window = 0;
  bool documents = false, prefix = false, slopes = false;
  double dropout = 0.0;
};

/// Loss and gradients of one attention over random inputs, its sequence divided over all ranks of `world`.
struct Attended {
  double loss = 0.0;
  std::vector<double> gradients;

  Attended(Communicator& world, const kernels::Backend& backend, const MaskCase& mask)
      : mesh_({1, 1, world.size(), 1, 1}, world.rank()),
        groups_(mesh_, world),
        program_(mesh_, {&backend, groups_.communicators()}, {}) {
    declare();
    record(mask);
    program_.allocate();
    fill();
    program_.run("train", Part::forward), program_.run("train", Part::backward);
    loss = *program_.at<double>("loss");
    for (const char* name : kWeights) {
      const double* gradient = program_.at<double>(std::string("gradient.") + name);
      gradients.insert(gradients.end(), gradient, gradient + kWide * kWide / (name[0] == 'q' ? 1 : 2));
    }
    gradients.push_back(loss);
    world.all_reduce(gradients.data(), gradients.size(), DType::f64, ReduceOp::sum, Reduction::fast);
    loss = gradients.back(), gradients.pop_back();
  }

 private:
  static constexpr int64_t kSamples = 2, kTokens = 24, kWide = 8;
  static constexpr const char* kWeights[] = {"q", "k", "v"};

  void declare() {
    const Placements tokens = effective(with({}, Axis::cp, Shard(1)), mesh_);
    const Placements owed = effective(with({}, Axis::cp, Partial), mesh_);
    const auto add = [&](const char* name, const Shape& shape, DType dtype, const Placements& placements = {}) {
      program_.persistent().add(name, {shape, dtype, placements}, Purpose::input);
    };
    add("x", {kSamples, kTokens, kWide}, DType::f64, tokens);
    add("documents", {kSamples, kTokens}, DType::i32, tokens), add("targets", {kSamples, kTokens}, DType::i32, tokens);
    add("weights", {kSamples, kTokens}, DType::f32, tokens);
    add("prefix", {kSamples}, DType::i32), add("slopes", {4}, DType::f32);
    add("step.scalars", {kernels::kStepScalars}, DType::f64), add("step.random", {2}, DType::i64),
        add("loss", {1}, DType::f64, owed);
    for (const char* name : kWeights) {
      const Shape shape{name[0] == 'q' ? kWide : kWide / 2, kWide};  // two query heads to a key/value head
      program_.parameters().declare({name, shape, {}});
      program_.persistent().add(name, {shape, DType::f64}, Purpose::parameter);
      program_.persistent().add(std::string("gradient.") + name, {shape, DType::f64, owed}, Purpose::gradient);
    }
  }
  void record(const MaskCase& c) {
    Recorder r = program_.recorder({true, DType::f64});
    const auto product = [&](int weight) { return linear(r, r.persistent("x"), r.parameter(weight), {}); };
    AttentionMaskSpec mask;
    mask.causal = c.causal, mask.window = c.window;
    if (c.documents) mask.query_documents = mask.key_documents = r.persistent("documents");
    if (c.prefix) mask.prefix_lengths = r.persistent("prefix");
    if (c.slopes) mask.alibi_slopes = r.persistent("slopes");
    const Value o = attention(r, product(0), product(1), product(2), {4, 2, 0.7, c.dropout, 5}, mask);
    cross_entropy(r, o, r.persistent("targets"), r.persistent("weights"), r.persistent("loss"), kWide);
    record_backward(r);
    program_.add("train", std::move(r.tape()));
  }
  void fill() {
    const auto noise = [](uint64_t stream, int64_t i) {
      return static_cast<double>(philox_word(11, stream, static_cast<uint64_t>(i))) * 0x1p-31 - 1.0;
    };
    int64_t at = 0;
    for (int64_t b = 0; b < kSamples; ++b) {
      program_.at<int32_t>("prefix")[b] = static_cast<int32_t>(5 + 6 * b);
      for (const Extent& run : local_runs({{kTokens}, DType::i32, with({}, Axis::cp, Shard(0))}, 0, mesh_))
        for (int64_t t = run.first; t < run.first + run.count; ++t, ++at) {
          const int64_t token = b * kTokens + t;
          for (int64_t d = 0; d < kWide; ++d) program_.at<double>("x")[at * kWide + d] = noise(1, token * kWide + d);
          program_.at<int32_t>("documents")[at] = t < 7 ? 1 : t < 8 + b ? 2 : 5;
          program_.at<int32_t>("targets")[at] = static_cast<int32_t>(token * 5 % kWide);
          program_.at<float>("weights")[at] = static_cast<float>(token % 3);
        }
    }
    for (int h = 0; h < 4; ++h) program_.at<float>("slopes")[h] = 0.3f / static_cast<float>(1 + h);
    *program_.at<kernels::StepScalars>("step.scalars") = {.gradient_scale = 0.1};
    program_.at<uint64_t>("step.random")[0] = 17, program_.at<uint64_t>("step.random")[1] = 4;
    for (uint64_t w = 0; w < 3; ++w)
      for (int64_t i = 0; i < kWide * kWide / (w == 0 ? 1 : 2); ++i)
        program_.at<double>(kWeights[w])[i] = noise(2 + w, i);
  }

  Mesh mesh_;
  AxisGroups groups_;
  Program program_;
};

class RingMasks : public ::testing::TestWithParam<MaskCase> {};

TEST_P(RingMasks, AreThoseOfWholeAttention) {
  const kernels::Backend backend = kernels::reference_backend();
  const auto self = self_communicator();
  const Attended one(*self, backend, GetParam());
  for (const int ranks : {2, 3, 4, 6})
    run_rank_threads(ranks, [&](Communicator& world) {
      const Attended many(world, backend, GetParam());
      EXPECT_NEAR(many.loss, one.loss, 1e-13 * one.loss);
      for (size_t i = 0; i < one.gradients.size(); ++i)
        EXPECT_NEAR(many.gradients[i], one.gradients[i], 1e-12) << i << " over " << ranks;
    });
}

INSTANTIATE_TEST_SUITE_P(
    Ring, RingMasks,
    ::testing::Values(
        MaskCase{.name = "causal"}, MaskCase{.name = "both_ways", .causal = false},
        MaskCase{.name = "window", .window = 3}, MaskCase{.name = "window_both_ways", .causal = false, .window = 4},
        MaskCase{.name = "documents", .documents = true},
        MaskCase{.name = "documents_both_ways", .causal = false, .documents = true},
        MaskCase{.name = "prefix", .prefix = true}, MaskCase{.name = "prefix_window", .window = 6, .prefix = true},
        MaskCase{.name = "slopes", .slopes = true},
        MaskCase{.name = "slopes_both_ways", .causal = false, .slopes = true},
        MaskCase{.name = "dropout", .dropout = 0.3},
        MaskCase{.name = "all", .window = 9, .documents = true, .prefix = true, .slopes = true, .dropout = 0.2},
        MaskCase{
            .name = "all_both_ways", .causal = false, .window = 9, .documents = true, .slopes = true, .dropout = 0.2}),
    [](const auto& test) { return std::string(test.param.name); });

/// Pairs of query and key that a causal mask leaves, and calls of the kernel, as this rank's thread has had them.
thread_local int64_t pairs_seen = 0, calls_seen = 0;

/// In a causal ring every rank has the same work: in the first step three blocks, then two.
TEST(Ring, CausalWorkIsTheSameOnAllRanks) {
  kernels::Backend backend = kernels::reference_backend();
  static const auto run = backend.attention;
  backend.attention = [](const kernels::AttentionArgs& args) {
    const kernels::AttentionShape& s = args.shape;
    for (int64_t i = 0; i < s.queries; ++i) pairs_seen += std::clamp<int64_t>(i + s.offset(s.keys) + 1, 0, s.keys);
    ++calls_seen;
    run(args);
  };
  constexpr int64_t kSamples = 2, kTokens = 24;
  for (const int64_t ranks : {2, 3, 4, 6})
    run_rank_threads(static_cast<int>(ranks), [&](Communicator& world) {
      pairs_seen = calls_seen = 0;
      const Attended attended(world, backend, {.name = "causal"});
      EXPECT_EQ(pairs_seen * ranks, kSamples * kTokens * (kTokens + 1) / 2) << "rank " << world.rank();
      EXPECT_EQ(calls_seen, kSamples * (3 + 2 * (ranks - 1))) << "rank " << world.rank();
    });
}

// ---- what it costs and saves

constexpr int64_t kBatch = 2, kLayers = 2, kBytes = 8;

TrainingSpec spec_for(const DecoderConfig& model, Precision precision = Precision::fp64) {
  TrainingSpec spec = tiny_spec(model, precision);
  spec.microbatch = kBatch;
  return spec;
}

/// Bytes a rank sends over cp in one microbatch.
size_t bytes_of_microbatch(const DecoderConfig& model, const Layout& layout, Precision precision) {
  const kernels::Backend backend = kernels::reference_backend();
  std::vector<size_t> bytes(static_cast<size_t>(layout.ranks()));
  run_rank_threads(layout.ranks(), [&](Communicator& world) {
    TrainingSpec spec = spec_for(model, precision);
    spec.plan.recompute.policy = layout.recompute;
    TinyTraining training(spec, backend, world, layout.tp, 1, layout.cp);
    training.prepare(0, 1e-2);
    const size_t before = training.group(Axis::cp).count().bytes;
    training.accumulate(0);
    bytes[static_cast<size_t>(world.rank())] = training.group(Axis::cp).count().bytes - before;
    const Plan& train = training.program().plan("train");
    double planned = 0.0;
    for (size_t i = 0; i < train.tape.nodes.size(); ++i) {
      const Node& node = train.tape.nodes[i];
      if ((node.part == Part::forward || node.part == Part::backward) && node.op->is_collective() &&
          train.wire(i).axis == Axis::cp)
        planned += train.wire(i).bytes;
    }
    EXPECT_EQ(planned, static_cast<double>(training.group(Axis::cp).count().bytes - before)) << "as the plan says";
  });
  for (const size_t other : bytes) EXPECT_EQ(other, bytes[0]);
  return bytes[0];
}

/// A layer: keys, values and documents go round forwards and back, n - 1 shifts each; sums of both gradients travel
/// with them and home, n shifts, in the dtype of sums. Full recomputation goes round once more.
TEST(ContextCost, BytesOnTheWireAreThoseOfTheFormula) {
  for (const ContextModel model : {kGpt, kLlama})
    for (const auto& [precision, element, sum] : {std::tuple<Precision, size_t, size_t>{Precision::fp64, 8, 8},
                                                  {Precision::fp32, 4, 4},
                                                  {Precision::bf16, 2, 4}})
      for (const int n : {2, 4})
        for (const int tp : {1, 2})
          for (const Policy policy : {Policy::none, Policy::full}) {
            const size_t heads = model == kGpt ? 4 : 2;
            const size_t tokens = static_cast<size_t>(kBatch * kContext / n);
            const size_t pair = 2 * tokens * heads / static_cast<size_t>(tp) * 4;  // elements of keys and values
            const size_t message = pair * element + tokens * 4;
            const size_t passes = policy == Policy::full ? 3 : 2, shifts = static_cast<size_t>(n) - 1;
            Layout layout = context(n, tp);
            layout.recompute = policy;
            EXPECT_EQ(bytes_of_microbatch(config_of(model), layout, precision),
                      kLayers * (passes * shifts * message + static_cast<size_t>(n) * pair * sum))
                << name_of(layout);
          }
}

class ContextPlans : public ::testing::Test {
 protected:
  std::unique_ptr<TrainingProgram> plan(const DecoderConfig& model, int cp, int rank = 0) {
    Device device{&backend_, {}};
    device.communicators.of.fill(self_.get());
    return std::make_unique<TrainingProgram>(Mesh({1, 1, cp, 1, 1}, rank), device, spec_for(model));
  }
  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
};

/// O(S / cp): no tensor of a rank has more tokens than its share, and the scratch of the ring, where the keys and
/// values of others are, holds two messages (and backward two of sums) beside what the kernel of a block wants.
TEST_F(ContextPlans, NoRankHoldsMoreThanItsShareOfKeysAndValues) {
  for (const ContextModel model : {kGpt, kLlama, kWindow})
    for (const int64_t length : {64, 128})
      for (const int n : {2, 4, 8}) {
        DecoderConfig config = config_of(model);
        config.context = length;
        const auto training = plan(config, n);
        const Plan& train = training->program().plan("train");
        int rings = 0;
        for (const TapeTensor& tensor : train.tape.tensors) {
          const Shape& shape = tensor.spec.shape;
          if (tensor.purpose == Purpose::scalar || shape.size() < 2 || shape[0] != kBatch) continue;
          const Shape local = local_shape(tensor.spec, train.tape.mesh);
          EXPECT_EQ(element_count(local) * n, element_count(shape)) << tensor.name;
        }
        for (size_t i = 0; i < train.tape.nodes.size(); ++i) {
          const Node& node = train.tape.nodes[i];
          if (!node.op->name().starts_with("ring")) {
            EXPECT_FALSE(node.op->is_collective() && node.part != Part::update && node.part != Part::begin)
                << node.op->name();
            continue;
          }
          ++rings;
          const int64_t tokens = kBatch * length / n, chunk = length / (2 * n);
          const int64_t width = (config.kv() * config.head());
          const size_t message = static_cast<size_t>(2 * tokens * width * kBytes + tokens * 4);
          const bool forward = node.part == Part::forward;
          const size_t kernel =
              static_cast<size_t>(forward ? chunk + config.head() : (2 * chunk + 1) * config.head()) * kBytes;
          const size_t sums = forward ? 0 : static_cast<size_t>(2 * tokens * width * kBytes);
          const auto room = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
          EXPECT_EQ(train.scratch_bytes[i], room(kernel) + 2 * room(message) + 2 * room(sums)) << node.op->name();
        }
        EXPECT_EQ(rings, 2 * kLayers);
      }
}

/// Every rank has the same FLOPs, a share of the whole; and the same plan.
TEST_F(ContextPlans, WorkIsDividedEqually) {
  DecoderConfig config = config_of(kLlama);
  config.context = 64;
  const auto flops = [](const TrainingProgram& training) {
    const Plan& train = training.program().plan("train");
    return train.flops(Part::forward, true) + train.flops(Part::backward, true);
  };
  const double whole = flops(*plan(config, 1));
  const auto first = plan(config, 4, 0);
  for (int rank = 0; rank < 4; ++rank) {
    const auto training = plan(config, 4, rank);
    EXPECT_NEAR(flops(*training) * 4, whole, 1e-9 * whole) << rank;
    EXPECT_EQ(training->digest(), first->digest());
  }
}

}  // namespace
}  // namespace capstan::testing
