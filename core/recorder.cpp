#include "core/recorder.h"

#include <limits>

#include "core/error.h"
#include "core/ops/conversion.h"

namespace capstan {

Recorder::Recorder(const Mesh& mesh, PersistentSpace& persistent, const ParameterSet& parameters,
                   RecorderOptions options)
    : persistent_(persistent), parameters_(parameters), options_(options) {
  tape_.mesh = mesh;
}

TensorId Recorder::add_tensor(const std::string& name, const TensorSpec& spec, Purpose purpose) {
  tape_.tensors.push_back({scope_.empty() ? name : scope_ + "." + name, spec, purpose});
  return static_cast<TensorId>(tape_.tensors.size()) - 1;
}

Value Recorder::persistent(const std::string& name) {
  const int index = persistent_.find(name);
  CAPSTAN_CHECK(index >= 0, "there is no persistent tensor {}", name);
  tensor_of_persistent_.resize(std::max(tensor_of_persistent_.size(), persistent_.all().size()), kNoTensor);
  TensorId& id = tensor_of_persistent_[static_cast<size_t>(index)];
  if (id == kNoTensor) {
    const PersistentTensor& tensor = persistent_.at(index);
    tape_.tensors.push_back({tensor.name, tensor.spec, tensor.purpose, index});
    id = static_cast<TensorId>(tape_.tensors.size()) - 1;
  }
  return {id};
}

Value Recorder::parameter(int index) {
  const Parameter& parameter = parameters_.at(index);
  const std::string working = "working." + parameter.name;
  const Value value = persistent(persistent_.find(working) >= 0 ? working : parameter.name);
  parameter_of_tensor_.resize(std::max(parameter_of_tensor_.size(), static_cast<size_t>(value.id) + 1), -1);
  parameter_of_tensor_[static_cast<size_t>(value.id)] = index;
  tape_.tensors[static_cast<size_t>(value.id)].needs_gradient = options_.training && !parameter.frozen;
  return value;
}

int Recorder::parameter_of(TensorId id) const {
  return static_cast<size_t>(id) < parameter_of_tensor_.size() ? parameter_of_tensor_[static_cast<size_t>(id)] : -1;
}

namespace {

/// Relative price of bringing a tensor from one placement to another; infinite where no conversion exists.
double conversion_price(const Placement& from, const Placement& to, double bytes) {
  if (from == to) return 0.0;
  if (to.is_partial()) return std::numeric_limits<double>::infinity();
  if (from.is_replicate()) return 0.01 * bytes;  // a local slice
  if (from.is_partial() && to.is_replicate()) return 2.0 * bytes;
  // A reduce-scatter is half of an all-reduce, but what it leaves sharded is gathered sooner or later: it pays only
  // where another operand stands sharded already and would have to be gathered.
  if (from.is_partial()) return 2.5 * bytes;
  return bytes;
}

std::vector<InputSpec> specs_of(const Tape& tape, const std::vector<Value>& values) {
  std::vector<InputSpec> specs;
  for (const Value value : values)
    specs.push_back(value.present() ? InputSpec{true, tape.at(value.id).spec} : InputSpec{});
  return specs;
}

}  // namespace

void Recorder::place_on_axis(const Op& op, Axis axis, std::vector<Value>& inputs, std::vector<Placements>& out) {
  const std::vector<InputSpec> specs = specs_of(tape_, inputs);
  const Signature* best = nullptr;
  double best_price = std::numeric_limits<double>::infinity();
  const std::vector<Signature> signatures = op.signatures(specs);
  for (const Signature& signature : signatures) {
    double price = 0.0;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (specs[i].present)
        price += conversion_price(on(specs[i].spec.placements, axis), signature.inputs[i],
                                  static_cast<double>(specs[i].spec.elements() * bytes_of(specs[i].spec.dtype)));
    if (price < best_price) best = &signature, best_price = price;
  }
  CAPSTAN_CHECK(best != nullptr, "op {}: no placement signature can be reached on axis {}", op.name(), name_of(axis));
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].present()) inputs[i] = convert(inputs[i], axis, best->inputs[i]);
  for (size_t i = 0; i < out.size(); ++i) out[i] = with(out[i], axis, best->outputs[i]);
}

std::vector<Value> Recorder::record(OpPtr op, const std::vector<Value>& inputs, Purpose purpose) {
  return record_into(std::move(op), inputs, {}, Accumulate::never, purpose);
}

Value Recorder::record_one(OpPtr op, const std::vector<Value>& inputs, Purpose purpose) {
  return record(std::move(op), inputs, purpose).at(0);
}

std::vector<Value> Recorder::record_into(OpPtr op, const std::vector<Value>& given, const std::vector<Value>& outputs,
                                         Accumulate accumulate, Purpose purpose) {
  std::vector<Value> inputs = given;
  std::vector<TensorSpec> inferred = op->infer(specs_of(tape_, inputs));
  std::vector<Placements> placed(inferred.size());
  for (const Axis axis : kAllAxes)
    if (tape_.mesh.size(axis) > 1) place_on_axis(*op, axis, inputs, placed);

  Node node{op, {}, {}, part_, level_, region_, accumulate};
  bool needs_gradient = false;
  for (const Value value : inputs) {
    node.inputs.push_back(value.id);
    needs_gradient = needs_gradient || (value.present() && tape_.at(value.id).needs_gradient);
  }
  std::vector<Value> result;
  for (size_t i = 0; i < inferred.size(); ++i) {
    inferred[i].placements = placed[i];
    Value value = i < outputs.size() ? outputs[i] : Value{};
    if (!value.present()) {
      const Purpose use = accumulation_of(inferred[i].dtype) == inferred[i].dtype && i > 0 &&
                                  purpose == Purpose::activation && inferred[i].shape.size() < 3
                              ? Purpose::statistic
                              : purpose;
      value = {add_tensor(fmt::format("{}.{}", op->name(), i), inferred[i], use)};
      tape_.tensors.back().needs_gradient = needs_gradient && options_.training && part_ == Part::forward;
    } else {
      // A persistent output takes the placements its op gives it: a gradient comes out Partial where the data differ.
      CAPSTAN_CHECK(spec(value).placements == placed[i] || tape_.at(value.id).persistent >= 0,
                    "op {}: output {} is placed {}", op->name(), i, to_string(spec(value)));
    }
    node.outputs.push_back(value.id);
    result.push_back(value);
  }
  tape_.nodes.push_back(std::move(node));
  return result;
}

Value Recorder::convert(Value value, Axis axis, Placement to) {
  const Placement from = on(spec(value).placements, axis);
  if (from == to || tape_.mesh.size(axis) == 1) return value;
  const TensorSpec source = spec(value);
  const TensorSpec target{source.shape, source.dtype, with(source.placements, axis, to)};
  const TapeTensor& original = tape_.at(value.id);
  Node node{make_conversion(axis, from, to), {value.id}, {}, part_, level_, region_};
  const Purpose purpose = original.persistent >= 0 ? Purpose::activation : original.purpose;
  const bool needs_gradient = original.needs_gradient;
  const TensorId id = add_tensor(fmt::format("{}.as_{}", original.name, to_string(to)), target, purpose);
  tape_.tensors.back().needs_gradient = needs_gradient;
  node.outputs.push_back(id);
  tape_.nodes.push_back(std::move(node));
  return {id};
}

}  // namespace capstan
