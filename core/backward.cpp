#include "core/backward.h"

#include "core/error.h"
#include "core/ops/elementwise.h"

namespace capstan {

class BackwardPass {
 public:
  explicit BackwardPass(Recorder& recorder) : recorder_(recorder), written_(recorder.parameters().size()) {}

  void run() {
    const size_t forward_nodes = recorder_.tape().nodes.size();
    recorder_.set_part(Part::backward);
    for (size_t i = forward_nodes; i-- > 0;) {
      const Node node = recorder_.tape().nodes[i];  // a copy: recording grows the vector
      if (node.part != Part::forward || !reached(node)) continue;
      recorder_.set_region(node.region);
      recorder_.set_chunk(node.chunk);
      Adjoint adjoint(*this, node);
      node.op->adjoint(adjoint);
    }
    recorder_.set_region(-1);
    check_all_written();
  }

  Recorder& recorder() { return recorder_; }
  Value gradient_of(TensorId id) const {
    return static_cast<size_t>(id) < gradients_.size() ? gradients_[static_cast<size_t>(id)] : Value{};
  }
  void set_gradient(TensorId id, Value gradient) {
    if (gradients_.size() <= static_cast<size_t>(id)) gradients_.resize(static_cast<size_t>(id) + 1);
    gradients_[static_cast<size_t>(id)] = gradient;
  }
  /// True the first time a parameter's gradient is written in this pass.
  bool first_write(int parameter) {
    const bool first = !written_[static_cast<size_t>(parameter)];
    written_[static_cast<size_t>(parameter)] = true;
    return first;
  }

 private:
  bool reached(const Node& node) const {
    bool needed = false, gradient = node.op->is_loss();
    for (const TensorId id : node.outputs) {
      if (id == kNoTensor) continue;
      needed = needed || recorder_.tape().at(id).needs_gradient;
      gradient = gradient || gradient_of(id).present();
    }
    if (node.op->is_loss())
      for (const TensorId id : node.inputs)
        needed = needed || (id != kNoTensor && recorder_.tape().at(id).needs_gradient);
    return needed && gradient;
  }

  void check_all_written() const {
    for (size_t id = 0; id < recorder_.tape().tensors.size(); ++id) {
      const int parameter = recorder_.parameter_of(static_cast<TensorId>(id));
      if (parameter < 0 || recorder_.parameters().at(parameter).frozen) continue;
      CAPSTAN_CHECK(written_[static_cast<size_t>(parameter)], "no gradient reaches parameter {}",
                    recorder_.parameters().at(parameter).name);
    }
  }

  Recorder& recorder_;
  std::vector<Value> gradients_;  // by forward tensor
  std::vector<bool> written_;     // by parameter
};

Recorder& Adjoint::recorder() { return pass_.recorder(); }

Value Adjoint::gradient(int output) const { return pass_.gradient_of(node_.outputs[static_cast<size_t>(output)]); }

Value Adjoint::input(int i) const {
  CAPSTAN_CHECK(node_.op->kept().inputs & (1u << i), "op {} reads input {} in its backward but does not keep it",
                node_.op->name(), i);
  return {node_.inputs[static_cast<size_t>(i)]};
}

Value Adjoint::output(int i) const {
  CAPSTAN_CHECK(node_.op->kept().outputs & (1u << i), "op {} reads output {} in its backward but does not keep it",
                node_.op->name(), i);
  return {node_.outputs[static_cast<size_t>(i)]};
}

bool Adjoint::needs(int input) const {
  return has_input(input) && pass_.recorder().tape().at(node_.inputs[static_cast<size_t>(input)]).needs_gradient;
}

Value Adjoint::so_far(int input) const { return pass_.gradient_of(node_.inputs[static_cast<size_t>(input)]); }

void Adjoint::replace(int input, Value total) { pass_.set_gradient(node_.inputs[static_cast<size_t>(input)], total); }

void Adjoint::contribute(int input, Value gradient) {
  if (!needs(input)) return;
  CAPSTAN_CHECK(!parameter_buffer(input).present(), "op {} contributes a loose gradient to a parameter",
                node_.op->name());
  const Value before = so_far(input);
  replace(input, before.present() ? add(recorder(), before, gradient) : gradient);
}

Value Adjoint::parameter_buffer(int input) const {
  if (!has_input(input)) return {};
  const int parameter = pass_.recorder().parameter_of(node_.inputs[static_cast<size_t>(input)]);
  if (parameter < 0 || pass_.recorder().parameters().at(parameter).frozen) return {};
  return pass_.recorder().persistent("gradient." + pass_.recorder().parameters().at(parameter).name);
}

Accumulate Adjoint::claim(std::initializer_list<int> inputs) {
  bool any_first = false, any_later = false;
  for (const int input : inputs) {
    const Value buffer = parameter_buffer(input);
    if (!buffer.present()) continue;
    ++recorder().tape().tensors[static_cast<size_t>(buffer.id)].contributions;
    const bool first = pass_.first_write(pass_.recorder().parameter_of(node_.inputs[static_cast<size_t>(input)]));
    any_first = any_first || first;
    any_later = any_later || !first;
  }
  CAPSTAN_CHECK(!(any_first && any_later), "op {}: its parameters are shared unequally", node_.op->name());
  return any_later ? Accumulate::always : Accumulate::after_first_microbatch;
}

void record_backward(Recorder& recorder) { BackwardPass(recorder).run(); }

}  // namespace capstan
