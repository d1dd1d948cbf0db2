#pragma once
// A small decoder, random data and a plain step loop: what the engine's tests share.

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "core/axis_groups.h"
#include "core/training_program.h"
#include "kernels/philox.h"

namespace capstan::testing {

inline DecoderConfig tiny_gpt() {
  DecoderConfig config;
  config.layers = 2, config.width = 16, config.heads = 4, config.context = 12, config.vocabulary = 29;
  config.init_std = 0.08;
  return config;
}

inline DecoderConfig tiny_llama() {
  DecoderConfig config = tiny_gpt();
  config.kv_heads = 2, config.positions = Positions::rotary, config.norm = NormKind::rms;
  config.activation = Activation::swiglu, config.hidden = 24, config.bias = false, config.tied = false;
  return config;
}

inline DecoderConfig tiny_alibi() {
  DecoderConfig config = tiny_gpt();
  config.heads = 3, config.head_size = 5, config.positions = Positions::alibi, config.window = 7;
  config.activation = Activation::geglu, config.hidden = 20;
  return config;
}

struct Step {
  double loss = 0.0, norm = 0.0;
  bool operator==(const Step&) const = default;
};

/// Where the second document of every other sample begins: inside a chunk of context parallelism, whose length is even.
constexpr int64_t second_document(int64_t context) { return context / 2 | 1; }

/// One rank of a small training. Data are a pure function of the sample's index, so that any number of ranks and
/// microbatches sees the same global batch: data rank r takes samples [r, r+1) * batch / dp of the step.
class TinyTraining {
 public:
  using MakeLane = std::function<std::unique_ptr<Lane>(std::shared_ptr<const AxisGroups>)>;
  /// make_lane: what communicates over dp runs beside the computation, over groups of its own, made from lane_world
  /// where that is another.
  TinyTraining(const TrainingSpec& spec, const kernels::Backend& backend, Communicator& world, int tp = 1, int pp = 1,
               int cp = 1, int rep = 1, const MakeLane& make_lane = {}, kernels::DeviceRuntime* runtime = nullptr,
               bool capture = true, Communicator* lane_world = nullptr)
      : backend_(backend),
        runtime_(runtime),
        capture_(capture),
        mesh_({world.size() / (tp * pp * cp * rep), pp, cp, tp, 1, rep}, world.rank()),
        groups_(mesh_, world),
        training_(make(spec, lane_world != nullptr ? *lane_world : world, make_lane)) {
    training_->allocate_and_initialise();
  }

  const Mesh& mesh() const { return mesh_; }
  Communicator& group(Axis axis) { return groups_.of(axis); }

  TrainingProgram& training() { return *training_; }
  Program& program() { return training_->program(); }

  void fill_microbatch(int64_t step, int64_t m) {
    const TrainingSpec& spec = training_->spec();
    const int64_t per_rank = spec.microbatch * spec.microbatches, context = spec.model.context;
    const int64_t first = (step * data_ranks() + mesh_.data_rank()) * per_rank + m * spec.microbatch;
    int32_t* tokens = program().write<int32_t>("input.tokens", m);
    int32_t* targets = program().write<int32_t>("input.targets", m);
    int32_t* documents = program().write<int32_t>("input.document_ids", m);
    int32_t* positions = program().write<int32_t>("input.positions", m);
    float* weights = program().write<float>("input.loss_weights", m);
    const std::vector<Extent> runs = local_runs({{context}, DType::i32, with({}, Axis::cp, Shard(0))}, 0, mesh_);
    const int64_t cut = second_document(context);
    int64_t i = -1;
    for (int64_t s = 0; s < spec.microbatch; ++s)
      for (const int64_t t : tokens_of(runs)) {
        ++i;
        const auto token = [&](int64_t place) {
          const uint64_t index = static_cast<uint64_t>((first + s) * (context + 1) + place);
          return static_cast<int32_t>(philox_word(7, 1, index) % static_cast<uint64_t>(spec.model.vocabulary));
        };
        const bool second = t >= cut && (first + s) % 2 == 1;
        tokens[i] = token(t);
        targets[i] = token(t + 1);
        documents[i] = second ? 1 : 0;
        positions[i] = static_cast<int32_t>(second ? t - cut : t);
        weights[i] = t % 5 == 3 ? 0.0f : 1.0f;
      }
  }

  double weight_sum() const { return own_weight_sum() * static_cast<double>(data_ranks()); }
  double own_weight_sum() const {
    const TrainingSpec& spec = training_->spec();
    double per_sample = 0.0;
    for (int64_t t = 0; t < spec.model.context; ++t) per_sample += t % 5 == 3 ? 0.0 : 1.0;
    return per_sample * static_cast<double>(spec.microbatch * spec.microbatches);
  }

  void prepare(int64_t step, double learning_rate) {
    training_->begin_step({learning_rate, 1.0, own_weight_sum(), 99 + static_cast<uint64_t>(step)});
  }

  /// Forward and backward of all microbatches of a step. reduce: see TrainingProgram::run_microbatches.
  void accumulate(int64_t index, bool reduce = false) {
    training_->run_microbatches([&](int64_t m) { fill_microbatch(index, m); }, reduce);
  }

  Step step(int64_t index, double learning_rate = 1e-2) {
    prepare(index, learning_rate);
    accumulate(index, true);
    const StepOutcome outcome = training_->finish_step();
    return {outcome.loss_sum / weight_sum(), outcome.gradient_norm};
  }

  /// The same, and every step but the last is followed by another before its outcome is taken.
  std::vector<StepOutcome> outcomes_ahead(int count, double learning_rate = 1e-2) {
    std::vector<StepOutcome> result;
    for (int i = 0; i < count; ++i) {
      prepare(i, learning_rate);
      accumulate(i, true);
      training_->end_step();
      if (i > 0) result.push_back(training_->take_outcome());
    }
    result.push_back(training_->take_outcome());
    return result;
  }

  std::vector<Step> steps(int count) {
    std::vector<Step> result;
    for (int i = 0; i < count; ++i) result.push_back(step(i));
    return result;
  }

  template <typename T>
  std::vector<T> values(const std::string& name) {
    const PersistentTensor& tensor = program().persistent().at(program().persistent().find(name));
    std::vector<T> values(tensor.bytes / sizeof(T));
    program().get(program().address(name), tensor.bytes, [&](const void* from, size_t first, size_t count) {
      std::memcpy(reinterpret_cast<char*>(values.data()) + first, from, count);
    });
    return values;
  }

 private:
  static std::vector<int64_t> tokens_of(const std::vector<Extent>& runs) {
    std::vector<int64_t> tokens;
    for (const Extent& run : runs)
      for (int64_t t = run.first; t < run.first + run.count; ++t) tokens.push_back(t);
    return tokens;
  }
  int64_t data_ranks() const { return mesh_.data_ranks(); }
  std::unique_ptr<TrainingProgram> make(const TrainingSpec& spec, Communicator& world, const MakeLane& make_lane) {
    Device device{&backend_, groups_.communicators()};
    device.runtime = runtime_, device.capture = capture_;
    if (make_lane) {
      const auto groups =
          std::make_shared<const AxisGroups>(mesh_, world, std::initializer_list<Axis>{Axis::dp, Axis::rep});
      device.lane_communicators = groups->communicators();
      lane_ = make_lane(groups), device.lane = lane_.get();
    }
    return std::make_unique<TrainingProgram>(mesh_, device, spec);
  }

  const kernels::Backend& backend_;
  kernels::DeviceRuntime* runtime_;
  bool capture_;
  Mesh mesh_;
  AxisGroups groups_;
  std::unique_ptr<Lane> lane_;
  std::unique_ptr<TrainingProgram> training_;
};

inline TrainingSpec tiny_spec(const DecoderConfig& model, Precision precision = Precision::fp64) {
  TrainingSpec spec;
  spec.model = model;
  spec.precision = precision;
  spec.microbatch = 2;
  return spec;
}

}  // namespace capstan::testing
