// label: ranks
// What tensor and sequence parallelism cost and save, against the formulas: bytes on the wire as the communicators
// count them, activations kept for the backward pass, what a rank holds of parameters, and that no rank ever holds
// logits of the whole vocabulary.

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

constexpr int64_t kBatch = 2, kContext = 12, kWidth = 16, kLayers = 2, kBytes = 8;

TrainingSpec spec_for(const DecoderConfig& model, const Layout& layout) {
  TrainingSpec spec = tiny_spec(model);
  spec.microbatch = kBatch;
  spec.sequence_parallel = layout.sequence_parallel;
  spec.plan.recompute.policy = layout.recompute;
  spec.zero = layout.zero;
  return spec;
}

/// Bytes that each rank sends over tp in one microbatch.
size_t bytes_of_microbatch(const DecoderConfig& model, const Layout& layout) {
  const kernels::Backend backend = kernels::reference_backend();
  std::vector<size_t> bytes(static_cast<size_t>(layout.tp));
  run_rank_threads(layout.tp, [&](Communicator& world) {
    TinyTraining training(spec_for(model, layout), backend, world, layout.tp);
    training.prepare(0, 1e-2);
    const size_t before = training.group(Axis::tp).count().bytes;
    training.accumulate(0);
    bytes[static_cast<size_t>(world.rank())] = training.group(Axis::tp).count().bytes - before;
  });
  for (const size_t other : bytes) EXPECT_EQ(other, bytes[0]);
  return bytes[0];
}

/// One pass of a tensor of b x s x h over n ranks: what an all-gather or a reduce-scatter sends; an all-reduce is two.
constexpr size_t stream_pass(int n) { return static_cast<size_t>(kBatch * kContext * kWidth * kBytes * (n - 1) / n); }
/// Three numbers a row from every rank.
constexpr size_t statistics_pass(int n) { return static_cast<size_t>(kBatch * kContext * 3 * kBytes * (n - 1)); }

TEST(BytesOnTheWire, AreThoseOfTheFormula) {
  for (const DecoderConfig& model : {tiny_gpt(), tiny_llama()})
    for (const int n : {2, 4}) {
      // Tensor parallel: four all-reduces a layer, one of the embedding, one of the gradient into the head.
      EXPECT_EQ(bytes_of_microbatch(model, {n}), (4 * kLayers + 2) * 2 * stream_pass(n) + statistics_pass(n));
      // Sequence parallel: four all-gathers and four reduce-scatters a layer, two of each around embedding and head.
      const size_t sequence = (8 * kLayers + 4) * stream_pass(n) + statistics_pass(n);
      EXPECT_EQ(bytes_of_microbatch(model, {n, 1, true}), sequence);
      // Gathered inputs are not kept but gathered again: two more a layer.
      EXPECT_EQ(bytes_of_microbatch(model, {n, 1, true, Policy::selective}), sequence + 2 * kLayers * stream_pass(n));
    }
}

/// Gradients are reduce-scattered once; then gradients (stage 0) or working copies (stage 1) are gathered once.
TEST(BytesOnTheWire, OfTheUpdateAreThoseOfTheFormula) {
  const kernels::Backend backend = kernels::reference_backend();
  for (const int zero : {0, 1})
    for (const auto& [precision, master, working] : {std::tuple<Precision, size_t, size_t>{Precision::fp64, 8, 8},
                                                     {Precision::fp32, 4, 4},
                                                     {Precision::bf16, 4, 2}})
      run_rank_threads(
          4, [&, zero = zero, precision = precision, master = master, working = working](Communicator& world) {
            TrainingSpec spec = spec_for(tiny_llama(), {1, 4, false, Policy::none, zero});
            spec.precision = precision;
            TinyTraining training(spec, backend, world, 1);
            training.step(0);
            const size_t before = training.group(Axis::dp).count().bytes;
            training.training().finish_step();
            const size_t elements = static_cast<size_t>(training.training().layout().elements);
            const size_t runs = training.training().layout().runs.size();
            // Loss, squares of own gradients, one flag a data rank; square sums.
            const size_t scalars = 2 * (2 + 4 + runs) * 8 * 3 / 4;
            EXPECT_EQ(training.group(Axis::dp).count().bytes - before,
                      elements * (master + (zero == 0 ? master : working)) * 3 / 4 + scalars);
          });
}

/// Stage 3 gathers every unit in each forward and each backward part (the table of an untied embedding is not read in
/// the backward pass), stages 2 and 3 reduce-scatter every unit's gradients in each microbatch.
TEST(BytesOnTheWire, OfDividedGradientsAndParametersAreThoseOfTheFormula) {
  const kernels::Backend backend = kernels::reference_backend();
  for (const int zero : {2, 3})
    for (const int64_t microbatches : {1, 3})
      run_rank_threads(4, [&, zero, microbatches](Communicator& world) {
        TrainingSpec spec = spec_for(tiny_llama(), {1, 4, false, Policy::none, zero});
        spec.precision = Precision::bf16, spec.microbatches = microbatches;
        TinyTraining training(spec, backend, world, 1);
        training.prepare(0, 1e-2);
        const size_t before = training.group(Axis::dp).count().bytes;
        training.accumulate(0);
        const size_t m = static_cast<size_t>(microbatches);
        size_t all = 0, table = 0;
        for (const FlatRun& run : training.training().layout().runs) {
          all += static_cast<size_t>(run.count);
          if (run.unit == 0) table += static_cast<size_t>(run.count);
        }
        const size_t scattered = m * all * 4, gathered = zero == 3 ? m * (2 * all - table) * 2 : 0;
        EXPECT_EQ(training.group(Axis::dp).count().bytes - before, (scattered + gathered) * 3 / 4);
      });
}

/// The plan of one rank alone: nothing runs.
class Plans : public ::testing::Test {
 protected:
  std::unique_ptr<TrainingProgram> plan(DecoderConfig model, const Layout& layout, int64_t layers, int rank = 0) {
    model.layers = layers;
    Device device{&backend_, {}};
    device.communicators.of.fill(self_.get());
    return std::make_unique<TrainingProgram>(Mesh({layout.dp, 1, 1, layout.tp, 1}, rank), device,
                                             spec_for(model, layout));
  }
  static size_t bytes_of_local(const Tape& tape, TensorId id) {
    return static_cast<size_t>(element_count(local_shape(tape.at(id).spec, tape.mesh))) *
           bytes_of(tape.at(id).spec.dtype);
  }
  /// Bytes made in the forward pass that the backward pass still reads.
  static size_t kept(const TrainingProgram& training) {
    const Tape& tape = training.program().plan("train").tape;
    std::vector<bool> made(tape.tensors.size()), counted(tape.tensors.size());
    size_t bytes = 0;
    for (const Node& node : tape.nodes) {
      for (const TensorId id : node.inputs)
        if (id != kNoTensor && node.part == Part::backward && made[static_cast<size_t>(id)] &&
            !counted[static_cast<size_t>(id)])
          bytes += bytes_of_local(tape, id), counted[static_cast<size_t>(id)] = true;
      for (const TensorId id : node.outputs)
        if (id != kNoTensor && node.part == Part::forward && tape.at(id).persistent < 0)
          made[static_cast<size_t>(id)] = true;
    }
    return bytes;
  }
  size_t kept_per_layer(const DecoderConfig& model, const Layout& layout) {
    return (kept(*plan(model, layout, 3)) - kept(*plan(model, layout, 1))) / 2;
  }

  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
};

TEST_F(Plans, SequenceParallelKeepsOneShareOfTheActivations) {
  for (const Policy policy : {Policy::selective, Policy::full})
    for (DecoderConfig model : {tiny_gpt(), tiny_llama()}) {
      model.kv_heads = 4;
      const size_t whole = kept_per_layer(model, {1, 1, false, policy});
      for (const int n : {2, 4}) {
        EXPECT_EQ(kept_per_layer(model, {n, 1, true, policy}) * static_cast<size_t>(n), whole);
        EXPECT_GT(kept_per_layer(model, {n, 1, false, policy}) * static_cast<size_t>(n), whole);
      }
    }
}

/// Without recomputation what was gathered is kept: two tensors of b x s x h a layer.
TEST_F(Plans, WithoutRecomputationGatheredInputsAreKept) {
  for (const int n : {2, 4}) {
    const size_t whole = kept_per_layer(tiny_gpt(), {});
    const size_t gathered = 2 * kBatch * kContext * kWidth * kBytes;
    EXPECT_EQ(kept_per_layer(tiny_gpt(), {n, 1, true}), (whole - gathered) / static_cast<size_t>(n) + gathered);
  }
}

TEST_F(Plans, NoRankHoldsLogitsOfTheWholeVocabulary) {
  for (DecoderConfig model : {tiny_gpt(), tiny_llama()})
    for (const bool sequence_parallel : {false, true}) {
      model.vocabulary = 257;  // nothing divides it, and its logits are the largest tensor by far
      const auto training = plan(model, {4, 1, sequence_parallel}, 1);
      for (const char* name : {"train", "evaluate"}) {
        const Tape& tape = training->program().plan(name).tape;
        size_t largest = 0;
        for (size_t id = 0; id < tape.tensors.size(); ++id)
          if (tape.tensors[id].persistent < 0)
            largest = std::max(largest, bytes_of_local(tape, static_cast<TensorId>(id)));
        EXPECT_EQ(largest, static_cast<size_t>(kBatch * kContext * padded_vocabulary(257, 4) / 4 * kBytes)) << name;
      }
    }
}

TEST_F(Plans, EachRankHoldsItsShareOfWhatIsDivided) {
  const auto training = plan(tiny_llama(), {4, 1, true}, 2, 3);
  const PersistentSpace& space = training->program().persistent();
  const auto local = [&](const std::string& name) {
    return local_shape(space.at(space.find(name)).spec, training->program().mesh());
  };
  EXPECT_EQ(padded_vocabulary(29, 4), 64);
  for (const char* prefix : {"", "gradient.", "moment1.", "moment2."}) {
    const std::string base = std::string(prefix) + "layers.1.";
    EXPECT_EQ(local(std::string(prefix) + "token_embedding.weight"), (Shape{16, 16}));
    EXPECT_EQ(local(std::string(prefix) + "head.weight"), (Shape{16, 16}));
    EXPECT_EQ(local(base + "attention.q.weight"), (Shape{4, 16}));
    EXPECT_EQ(local(base + "attention.k.weight"), (Shape{8, 16})) << "two heads for four ranks: whole";
    EXPECT_EQ(local(base + "attention.o.weight"), (Shape{16, 4}));
    EXPECT_EQ(local(base + "mlp.gate.weight"), (Shape{6, 16}));
    EXPECT_EQ(local(base + "mlp.down.weight"), (Shape{16, 6}));
    EXPECT_EQ(local(base + "mlp_norm.weight"), (Shape{16}));
  }
}

/// Which axes a gradient is summed over is found, not listed.
TEST_F(Plans, GradientsAreReducedWhereTheyArePartial) {
  const auto placed = [&](const Layout& layout, const std::string& name) {
    const auto training = plan(tiny_llama(), layout, 1);
    const PersistentSpace& space = training->program().persistent();
    const Placements& p = space.at(space.find("gradient." + name)).spec.placements;
    return to_string(on(p, Axis::dp)) + to_string(on(p, Axis::tp));
  };
  EXPECT_EQ(placed({2, 2}, "final_norm.weight"), "PR");
  EXPECT_EQ(placed({2, 2, true}, "final_norm.weight"), "PP");
  EXPECT_EQ(placed({2, 1, true}, "final_norm.weight"), "RP");
  EXPECT_EQ(placed({2, 2, true}, "layers.0.attention.q.weight"), "PS(0)");
  EXPECT_EQ(placed({2, 2, true}, "layers.0.attention.k.weight"), "PS(0)");
  EXPECT_EQ(placed({4, 2}, "layers.0.attention.k.weight"), "PP");
  EXPECT_EQ(placed({2, 2, true}, "layers.0.mlp.down.weight"), "PS(1)");
  EXPECT_EQ(placed({2, 2}, "token_embedding.weight"), "PS(0)");
}

/// Bytes a parameter: working copy and gradient whole, master and two moments divided by dp.
TEST_F(Plans, ZeroOneHoldsItsShareOfTheState) {
  const auto bytes = [&](const Layout& layout, Purpose purpose, Precision precision) {
    TrainingSpec spec = spec_for(tiny_gpt(), layout);
    spec.precision = precision;
    Device device{&backend_, {}};
    device.communicators.of.fill(self_.get());
    const TrainingProgram training(Mesh({layout.dp, 1, 1, layout.tp, 1}, 0), device, spec);
    size_t sum = 0;
    for (const PersistentTensor& tensor : training.program().persistent().all())
      if (tensor.parent < 0 && tensor.purpose == purpose) sum += tensor.bytes;
    EXPECT_EQ(sum % static_cast<size_t>(training.layout().elements / layout.dp), 0u);
    return static_cast<double>(sum) / static_cast<double>(training.layout().elements);
  };
  for (const int n : {2, 4})
    for (const int tp : {1, 2}) {
      const Layout layout{tp, n, false, Policy::none, 1};
      EXPECT_EQ(bytes(layout, Purpose::working, Precision::bf16), 2.0);
      EXPECT_EQ(bytes(layout, Purpose::working, Precision::fp32), 4.0);
      EXPECT_EQ(bytes(layout, Purpose::gradient, Precision::bf16), 4.0);
      EXPECT_EQ(bytes(layout, Purpose::parameter, Precision::bf16), 4.0 / n);
      EXPECT_EQ(bytes(layout, Purpose::moment, Precision::bf16), 8.0 / n);
      EXPECT_EQ(bytes({tp, n}, Purpose::moment, Precision::bf16), 8.0);
    }
}

/// Stage 2: working copy whole, the rest 16/n less it; stage 3: nothing whole but what two units need.
TEST_F(Plans, ZeroTwoAndThreeHoldTheirShareOfTheState) {
  const auto bytes = [&](const TrainingProgram& training, Purpose purpose) {
    size_t sum = 0;
    for (const PersistentTensor& tensor : training.program().persistent().all())
      if (tensor.parent < 0 && tensor.purpose == purpose) sum += tensor.bytes;
    return static_cast<double>(sum) / static_cast<double>(training.layout().elements);
  };
  for (const int n : {2, 4})
    for (const int zero : {2, 3}) {
      TrainingSpec spec = spec_for(tiny_llama(), {1, n, false, Policy::none, zero});
      spec.precision = Precision::bf16, spec.model.layers = 8;
      Device device{&backend_, {}};
      device.communicators.of.fill(self_.get());
      const TrainingProgram training(Mesh({n, 1, 1, 1, 1}, 0), device, spec);
      EXPECT_EQ(bytes(training, Purpose::working), zero == 2 ? 2.0 : 0.0);
      EXPECT_EQ(bytes(training, Purpose::gradient), 4.0 / n);
      EXPECT_EQ(bytes(training, Purpose::parameter), 4.0 / n);
      EXPECT_EQ(bytes(training, Purpose::moment), 8.0 / n);
      std::map<int, int64_t> units;
      for (const FlatRun& run : training.layout().runs) units[run.unit] += run.count;
      std::vector<int64_t> sizes;
      for (const auto& [unit, size] : units) sizes.push_back(size);
      std::sort(sizes.rbegin(), sizes.rend());
      const double two = static_cast<double>(sizes[0] + sizes[1]) / static_cast<double>(training.layout().elements);
      EXPECT_LE(bytes(training, Purpose::window), two * (zero == 2 ? 4.0 : 6.0) + 1e-9);
      EXPECT_GT(bytes(training, Purpose::window), 0.0);
    }
}

/// 1F1B: stage i keeps what min(m, p - i) microbatches leave to their backward pass, gpipe what all m do; each the same
/// bytes for the same layers.
TEST_F(Plans, AStageStashesWhatItsScheduleHasUnderWay) {
  constexpr int kStages = 4;
  const auto stash = [&](ScheduleKind kind, int stage, int64_t microbatches) {
    TrainingSpec spec = spec_for(tiny_llama(), {});
    spec.model.layers = 8, spec.schedule = kind, spec.microbatches = microbatches;
    const TrainingProgram training(Mesh({1, kStages, 1, 1, 1}, stage), Device{&backend_, {}}, spec);
    std::pair<size_t, size_t> slots_and_bytes{0, 0};
    for (const Ring& ring : training.program().plan("train").memory.rings)
      if (ring.made == Part::forward)
        slots_and_bytes = {static_cast<size_t>(ring.slots),
                           slots_and_bytes.second + ring.stride * static_cast<size_t>(ring.slots)};
    return slots_and_bytes;
  };
  using enum ScheduleKind;
  for (const int64_t m : {2, 3, 8})
    for (int stage = 0; stage < kStages - 1; ++stage) {
      const size_t under_way = static_cast<size_t>(std::min<int64_t>(m, kStages - stage));
      const auto [slots, bytes] = stash(one_forward_one_backward, stage, m);
      const auto [all_slots, all_bytes] = stash(gpipe, stage, m);
      EXPECT_EQ(slots, under_way) << "stage " << stage << " of " << m;
      EXPECT_EQ(all_slots, static_cast<size_t>(m));
      EXPECT_GT(bytes, 0u);
      EXPECT_EQ(bytes * static_cast<size_t>(m), all_bytes * under_way);
    }
  EXPECT_EQ(stash(one_forward_one_backward, kStages - 1, 8).first, 0u) << "the last stage has nothing between";
}

TEST_F(Plans, RunsHoldWhatIsReducedAlike) {
  const auto treatments = [](const TrainingProgram& training, int unit) {
    std::vector<std::pair<Placements, Placements>> found;
    for (const FlatRun& run : training.layout().runs)
      if (run.unit == unit &&
          std::find(found.begin(), found.end(), std::pair(run.placements, run.gradients)) == found.end())
        found.push_back({run.placements, run.gradients});
    return found.size();
  };
  constexpr int kFirstLayer = 2;
  EXPECT_EQ(treatments(*plan(tiny_llama(), {}, 1), kFirstLayer), 1u);
  EXPECT_EQ(treatments(*plan(tiny_llama(), {1, 2}, 1), kFirstLayer), 1u);
  EXPECT_EQ(treatments(*plan(tiny_llama(), {2}, 1), kFirstLayer), 2u) << "divided, whole";
  EXPECT_EQ(treatments(*plan(tiny_llama(), {4, 2}, 1), kFirstLayer), 3u) << "divided, whole, keys and values";
  for (const Layout& layout : {Layout{2, 2, true}, Layout{4, 1, true}}) {
    const auto training = plan(tiny_llama(), layout, 2);
    int64_t next = 0;
    int unit = 0;
    for (const FlatRun& run : training->layout().runs) {
      EXPECT_EQ(run.first, next);
      EXPECT_GE(run.unit, unit);
      EXPECT_TRUE(run.used > 0 && run.used <= run.count && run.count % layout.dp == 0);
      next = run.end(), unit = run.unit;
    }
    EXPECT_EQ(next, training->layout().elements);
  }
}

}  // namespace
}  // namespace capstan::testing
