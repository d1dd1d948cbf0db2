#pragma once
// A program of one's own making, in double on the reference kernels: a test adds inputs and parameters, records a
// forward pass with one or more losses, and asks whether the recorded gradients are finite differences. The total loss
// is the sum of all loss cells, scaled as the gradients are.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/backward.h"
#include "core/flat_layout.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/optimizer.h"
#include "core/program.h"
#include "kernels/philox.h"

namespace capstan::testing {

/// Uniform in (-1, 1), a pure function of stream and index.
inline double noise(uint64_t stream, int64_t index) {
  return static_cast<double>(philox_word(11, stream, static_cast<uint64_t>(index))) * 0x1p-31 - 1.0;
}

class SmallProgram {
 public:
  explicit SmallProgram(PlanOptions options = {}) : program_(Mesh{}, device(), options) {
    add("step.scalars", {kernels::kStepScalars}, DType::f64), add("step.random", {2}, DType::i64),
        add("step.square_sum", {1}, DType::f64);
  }

  Program& program() { return program_; }
  int add(const std::string& name, const Shape& shape, DType dtype) {
    return program_.persistent().add(name, {shape, dtype}, Purpose::input);
  }
  int parameter(const std::string& name, const Shape& shape, bool frozen = false) {
    return program_.parameters().declare({name, shape, {Init::Kind::normal, 0.5}, shape.size() > 1, frozen});
  }
  /// Lays the declared parameters out as flat state; frozen ones stand alone and have neither gradient nor moments.
  void lay_out_state() {
    layout_ = flat_layout(program_.parameters(), DType::f64);
    PersistentSpace& space = program_.persistent();
    for (const auto& [flat, prefix] : {std::pair<std::string, std::string>{"parameters", ""},
                                       {"gradients", "gradient."},
                                       {"moment1", "moment1."},
                                       {"moment2", "moment2."}}) {
      const int parent = space.add(flat, {{layout_.elements}, DType::f64}, Purpose::parameter);
      for (size_t r = 0; r < layout_.runs.size(); ++r)
        space.add_view(fmt::format("{}.run{}", flat, r), {{layout_.runs[r].count}, DType::f64}, parent,
                       static_cast<size_t>(layout_.runs[r].first) * 8);
      for (size_t i = 0; i < layout_.first.size(); ++i)
        if (layout_.first[i] >= 0)
          space.add_view(prefix + at(i).name, {at(i).shape, DType::f64}, parent,
                         static_cast<size_t>(layout_.first[i]) * 8);
    }
    for (size_t i = 0; i < layout_.first.size(); ++i)
      if (layout_.first[i] < 0) add(at(i).name, at(i).shape, DType::f64);
  }

  /// Adds the loss of logits (batch, rows, classes) against targets drawn by `name`.
  void add_loss(Recorder& recorder, Value logits, int64_t classes, const std::string& name) {
    const Shape shape{recorder.shape(logits)[0], recorder.shape(logits)[1]};
    add(name + ".targets", shape, DType::i32), add(name + ".weights", shape, DType::f32), add(name, {1}, DType::f64);
    losses_.push_back({name, element_count(shape), classes});
    cross_entropy(recorder, logits, recorder.persistent(name + ".targets"), recorder.persistent(name + ".weights"),
                  recorder.persistent(name), classes);
  }
  /// Records forward by `model`, backward, and an AdamW update; then takes the arena and fills parameters and targets.
  void build(const std::function<void(Recorder&)>& model) {
    Recorder recorder = program_.recorder({true, DType::f64});
    model(recorder);
    record_backward(recorder);
    record_update(recorder);
    program_.add("train", std::move(recorder.tape()));
    program_.allocate();
    fill();
  }

  kernels::StepScalars& scalars() { return *program_.at<kernels::StepScalars>("step.scalars"); }
  double loss() {
    program_.run("train", Part::forward);
    double sum = 0.0;
    for (const Loss& loss : losses_) sum += *program_.at<double>(loss.name);
    return sum * scalars().gradient_scale;
  }
  std::vector<double> values(const std::string& name) const {
    const PersistentTensor& tensor = program_.persistent().at(program_.persistent().find(name));
    const double* first = program_.at<double>(name);
    return std::vector<double>(first, first + tensor.bytes / 8);
  }

  void expect_gradients_are_finite_differences(double limit = 1e-7) {
    loss();
    program_.run("train", Part::backward);
    for (size_t p = 0; p < layout_.first.size(); ++p) {
      if (at(p).frozen) continue;
      const std::vector<double> gradient = values("gradient." + at(p).name);
      double* weights = program_.at<double>(at(p).name);
      double difference = 0.0, size = 0.0;
      const int64_t count = element_count(at(p).logical_shape());
      for (int64_t i = 0; i < count; i += std::max<int64_t>(1, count / 16)) {
        const double before = weights[i], h = 1e-5;
        weights[i] = before + h;
        const double up = loss();
        weights[i] = before - h;
        const double down = loss();
        weights[i] = before;
        const double numeric = (up - down) / (2 * h);
        difference += std::pow(numeric - gradient[static_cast<size_t>(i)], 2), size += numeric * numeric;
      }
      EXPECT_LE(std::sqrt(difference), limit * std::sqrt(size) + 1e-9) << at(p).name;
      EXPECT_TRUE(size > 1e-14 || at(p).name.ends_with("k.bias")) << at(p).name << " has no influence on the loss";
    }
  }

 private:
  struct Loss {
    std::string name;
    int64_t tokens, classes;
  };

  const Parameter& at(size_t index) const { return program_.parameters().at(static_cast<int>(index)); }
  Device device() {
    Device device{&backend_, {}};
    device.communicators.of.fill(self_.get());
    return device;
  }
  void record_update(Recorder& recorder) {
    recorder.set_part(Part::update);
    const Value sum = recorder.persistent("step.square_sum");
    record_square_sum(recorder, recorder.persistent("gradients"), sum);
    record_clip(recorder, sum);
    for (size_t r = 0; r < layout_.runs.size(); ++r) {
      const auto run = [&](const char* flat) { return recorder.persistent(fmt::format("{}.run{}", flat, r)); };
      AdamWSpec spec;
      if (!layout_.runs[r].decay) spec.weight_decay = 0.0;
      record_adamw(recorder, spec, run("gradients"), run("parameters"), run("moment1"), run("moment2"), {});
    }
  }
  void fill() {
    for (size_t p = 0; p < layout_.first.size(); ++p)
      for (int64_t i = 0; i < element_count(at(p).logical_shape()); ++i)
        program_.at<double>(at(p).name)[i] = 0.5 * noise(p, i) + (at(p).init.kind == Init::Kind::ones ? 1.0 : 0.0);
    for (const Loss& loss : losses_)
      for (int64_t i = 0; i < loss.tokens; ++i) {
        program_.at<int32_t>(loss.name + ".targets")[i] = static_cast<int32_t>(
            philox_word(13, loss.name.size(), static_cast<uint64_t>(i)) % static_cast<uint64_t>(loss.classes));
        program_.at<float>(loss.name + ".weights")[i] = i % 4 == 3 ? 0.5f : 1.0f;
      }
    scalars() = {};
    scalars().gradient_scale = 0.25, scalars().learning_rate = 1e-2, scalars().clip_limit = 1.0;
    scalars().correction1 = 0.1, scalars().correction2 = 0.05;
  }

  kernels::Backend backend_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_ = self_communicator();
  Program program_;
  FlatLayout layout_;
  std::vector<Loss> losses_;
};

}  // namespace capstan::testing
