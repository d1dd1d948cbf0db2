#pragma once
// Two trainings of one spec on different devices, run op by op: what every op wrote on the first is kept, and the op of
// the second whose output is the first to differ is named.

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/tiny_training.h"

namespace capstan::testing {

/// What each op wrote, in the order in which ops ran.
class OpOutputs final : public StepObserver {
 public:
  struct Written {
    std::string op;
    DType dtype = DType::f32;
    std::vector<char> bytes;
  };
  explicit OpOutputs(Program& program) : program_(program) { program.observe(this); }
  ~OpOutputs() override { program_.observe(nullptr); }
  void before(const Plan&, size_t) override {}
  void after(const Plan& plan, size_t node) override {
    const Node& at = plan.tape.nodes[node];
    for (size_t i = 0; i < at.outputs.size(); ++i) {
      if (at.outputs[i] == kNoTensor) continue;
      const TapeTensor& tensor = plan.tape.at(at.outputs[i]);
      if (tensor.purpose == Purpose::scratch || plan.memory.ring_of[static_cast<size_t>(at.outputs[i])] >= 0) continue;
      Written& one = all.emplace_back();
      one.op = fmt::format("{} node {} ({} {}) output {}", plan.name, node, name_of(at.part), at.op->name(), i);
      one.dtype = tensor.spec.dtype;
      one.bytes.resize(static_cast<size_t>(element_count(local_shape(tensor.spec, plan.tape.mesh))) *
                       bytes_of(one.dtype));
      program_.get(
          program_.address(plan, at.outputs[i]), one.bytes.size(),
          [&](const void* from, size_t first, size_t count) { std::memcpy(one.bytes.data() + first, from, count); });
    }
  }
  std::vector<Written> all;

 private:
  Program& program_;
};

/// ||a - b|| relative to ||b||, or 1,000 times the root mean square of a - b where that is less; both of f32 or f64.
inline double difference(const OpOutputs::Written& a, const OpOutputs::Written& b) {
  const auto value = [](const OpOutputs::Written& w, size_t i) {
    if (w.dtype == DType::f64) return reinterpret_cast<const double*>(w.bytes.data())[i];
    return static_cast<double>(reinterpret_cast<const float*>(w.bytes.data())[i]);
  };
  double error = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.bytes.size() / bytes_of(a.dtype); ++i) {
    const double x = value(a, i), y = value(b, i);
    if (x == y) continue;
    error += (x - y) * (x - y), norm += y * y;
  }
  const double count = static_cast<double>(a.bytes.size() / bytes_of(a.dtype));
  return std::min(std::sqrt(error / std::max(norm, 1e-300)), 1e3 * std::sqrt(error / count));
}

/// Empty when all ops of `steps` steps agree: to `tolerance` of the norm, or to as much of 1 where values cancel (the
/// gradient of a key's bias is 0); a tolerance of 0 asks for the same bits. between: called when the first has run.
inline std::string first_difference(TinyTraining& oracle, TinyTraining& other, int steps, double tolerance,
                                    const std::function<void()>& between = {}) {
  OpOutputs wanted(oracle.program()), got(other.program());
  oracle.steps(steps);
  if (between) between();
  other.steps(steps);
  if (wanted.all.size() != got.all.size())
    return fmt::format("{} outputs against {}", got.all.size(), wanted.all.size());
  for (size_t i = 0; i < wanted.all.size(); ++i) {
    if (tolerance == 0.0 && got.all[i].bytes != wanted.all[i].bytes) return got.all[i].op + ": not the same bits";
    if (tolerance == 0.0 || (wanted.all[i].dtype != DType::f32 && wanted.all[i].dtype != DType::f64)) continue;
    const double off = difference(got.all[i], wanted.all[i]);
    // AdamW turns a gradient that is 0 but for rounding into a whole step of either sign.
    const double allowed = wanted.all[i].op.find("adamw") != std::string::npos ? 100.0 * tolerance : tolerance;
    if (!(off <= allowed)) return fmt::format("{}: off by {:.2g} of its norm", got.all[i].op, off);
  }
  return {};
}

}  // namespace capstan::testing
