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

void Recorder::set_region(int region) {
  region_ = region;
  if (region >= 0 && !options_.chunk_of_region.empty())
    chunk_ = options_.chunk_of_region.at(static_cast<size_t>(region));
}

bool Recorder::begins_chunk(int region) const {
  const std::vector<int>& chunks = options_.chunk_of_region;
  const size_t r = static_cast<size_t>(region);
  return region > 0 && !chunks.empty() && chunks.at(r) != chunks.at(r - 1);
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

/// Activations travel to weights, never the other way: a stored parameter is converted only where nothing else fits.
constexpr double kParameterPrice = 1e6;

double Recorder::price_of(const Signature& signature, Axis axis, const std::vector<Value>& inputs) const {
  double price = 0.0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].present()) continue;
    const TensorSpec& given = spec(inputs[i]);
    const double bytes = static_cast<double>(given.elements() * bytes_of(given.dtype));
    price += conversion_price(on(given.placements, axis), signature.inputs[i], bytes) *
             (parameter_of(inputs[i].id) >= 0 ? kParameterPrice : 1.0);
  }
  return price;
}

void Recorder::place_on_axis(const Op& op, Axis axis, std::vector<Value>& inputs, std::vector<Placements>& out) {
  const Signature* best = nullptr;
  double best_price = std::numeric_limits<double>::infinity();
  const std::vector<Signature> signatures = op.signatures(specs_of(tape_, inputs));
  for (const Signature& signature : signatures) {
    const double price = price_of(signature, axis, inputs);
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
  for (const Axis axis : kAllAxes)  // a pipeline is a cut of the tape, no placement
    if (axis != Axis::pp && tape_.mesh.size(axis) > 1) place_on_axis(*op, axis, inputs, placed);

  Node node{op, {}, {}, part_, level_, region_, chunk_, accumulate};
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
      CAPSTAN_CHECK(tape_.at(value.id).persistent >= 0, "op {}: output {} is no persistent tensor", op->name(), i);
      take_placements(value.id, *op, placed[i]);
    }
    node.outputs.push_back(value.id);
    result.push_back(value);
  }
  node.lane = lane_ && !outputs.empty();
  tape_.nodes.push_back(std::move(node));
  return result;
}

/// A gradient is placed as the first op that writes it leaves it (Partial where the data differ); a later one that adds
/// to it must leave its addend so too. What was declared otherwise is found when the plan is made.
void Recorder::take_placements(TensorId id, const Op& op, const Placements& placed) {
  TapeTensor& tensor = tape_.tensors[static_cast<size_t>(id)];
  if (tensor.purpose != Purpose::gradient || part_ != Part::backward) return;
  if (tensor.contributions <= 1) tensor.spec.placements = placed;
  CAPSTAN_CHECK(tensor.spec.placements == placed, "op {}: its addend to {} is {}, those before were {}", op.name(),
                tensor.name, to_string(TensorSpec{tensor.spec.shape, tensor.spec.dtype, placed}),
                to_string(tensor.spec));
}

Value Recorder::convert(Value value, Axis axis, Placement to) {
  const Placement from = on(spec(value).placements, axis);
  if (from == to || tape_.mesh.size(axis) == 1) return value;
  const TensorSpec source = spec(value);
  const TensorSpec target{source.shape, source.dtype, with(source.placements, axis, to)};
  const TapeTensor original = tape_.at(value.id);
  const std::tuple<TensorId, Axis, int> key{value.id, axis, to.is_shard() ? to.dim : -1};
  if (const auto found = converted_.find(key); found != converted_.end() && original.persistent < 0)
    return {found->second};
  Node node{make_conversion(axis, from, to), {value.id}, {}, part_, level_, region_, chunk_};
  const Purpose purpose = original.persistent >= 0 ? Purpose::activation : original.purpose;
  const TensorId id = add_tensor(fmt::format("{}.as_{}", original.name, to_string(to)), target, purpose);
  tape_.tensors.back().needs_gradient = original.needs_gradient;
  node.outputs.push_back(id);
  tape_.nodes.push_back(std::move(node));
  converted_[key] = id;
  return {id};
}

void Recorder::convert_into(Value value, Axis axis, Placement to, Value target) {
  const TensorSpec &from = spec(value), wanted{from.shape, from.dtype, with(from.placements, axis, to)};
  CAPSTAN_CHECK(spec(target) == wanted && tape_.at(target.id).persistent >= 0, "converted to {}, the target is {}",
                to_string(wanted), to_string(spec(target)));
  tape_.nodes.push_back(
      {make_conversion(axis, on(from.placements, axis), to), {value.id}, {target.id}, part_, level_, region_, chunk_});
  tape_.nodes.back().lane = lane_ && (axis == Axis::dp || axis == Axis::rep);
}

Value Recorder::as_stream(Value value) {
  for (const Axis axis : kAllAxes) {
    const Placement wanted = on(options_.stream, axis);
    if (wanted.is_shard() || on(spec(value).placements, axis).is_partial()) value = convert(value, axis, wanted);
  }
  return value;
}

Value Recorder::from_stream(Value value) {
  for (const Axis axis : kAllAxes)
    if (on(options_.stream, axis).is_shard()) value = convert(value, axis, Replicate);
  return value;
}

}  // namespace capstan
