#include "launch/program_state.h"

#include "core/error.h"

namespace capstan {
namespace {

std::vector<int64_t> shape_of(const Parameter& parameter) { return parameter.logical_shape(); }

const LogicalTensor& require(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  const LogicalTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr)
    throw Error::make(ExitCode::bad_data,
                      "checkpoint {} has no tensor {}: it is of another model; start with another run.dir",
                      checkpoint.path().string(), name);
  if (tensor->shape != shape)
    throw Error::make(ExitCode::bad_data, "checkpoint {}: {} is {}, the config wants {}", checkpoint.path().string(),
                      name, to_string(tensor->shape), to_string(shape));
  return *tensor;
}

template <typename Visit>
void each_state_tensor(const TrainingProgram& training, Visit&& visit) {
  const ParameterSet& parameters = training.program().parameters();
  for (const char* prefix : {"", "moment1.", "moment2."})
    for (size_t i = 0; i < parameters.size(); ++i)
      visit(prefix + parameters.at(static_cast<int>(i)).name, parameters.at(static_cast<int>(i)));
}

void store(void* to, DType dtype, int64_t index, double value) {
  if (dtype == DType::f64)
    static_cast<double*>(to)[index] = value;
  else if (dtype == DType::f32)
    static_cast<float*>(to)[index] = static_cast<float>(value);
  else
    static_cast<BFloat16*>(to)[index] = BFloat16(static_cast<float>(value));
}

}  // namespace

StateSlices state_slices(const TrainingProgram& training, int rank, int ranks) {
  StateSlices state;
  const DType dtype = training.master_dtype();
  each_state_tensor(training, [&](const std::string& name, const Parameter& parameter) {
    const int64_t count = element_count(parameter.logical_shape());
    const int64_t first = count * rank / ranks, last = count * (rank + 1) / ranks;
    state.tensors.push_back({name, dtype, shape_of(parameter)});
    if (first == last) return;
    const char* data = training.program().at<char>(name) + static_cast<size_t>(first) * bytes_of(dtype);
    state.slices.push_back({name, static_cast<uint64_t>(first), static_cast<uint64_t>(last - first), data});
  });
  return state;
}

void load_state(TrainingProgram& training, Checkpoint& checkpoint) {
  const DType dtype = training.master_dtype();
  each_state_tensor(training, [&](const std::string& name, const Parameter& parameter) {
    const LogicalTensor& tensor = require(checkpoint, name, parameter.logical_shape());
    if (tensor.dtype != dtype)
      throw Error::make(ExitCode::config, "checkpoint {} holds {} in {}, train.precision wants {}",
                        checkpoint.path().string(), name, name_of(tensor.dtype), name_of(dtype));
    checkpoint.read(name, 0, static_cast<uint64_t>(element_count(tensor.shape)), training.program().address(name));
  });
  training.refresh_working_copies();
}

void load_parameters(Program& program, DType dtype, Checkpoint& checkpoint) {
  constexpr uint64_t kRun = 1 << 20;
  std::vector<double> wide(kRun);
  std::vector<float> narrow(kRun);
  for (size_t i = 0; i < program.parameters().size(); ++i) {
    const Parameter& parameter = program.parameters().at(static_cast<int>(i));
    const LogicalTensor& tensor = require(checkpoint, parameter.name, parameter.logical_shape());
    void* to = program.address(parameter.name);
    const uint64_t count = static_cast<uint64_t>(element_count(tensor.shape));
    for (uint64_t first = 0; first < count; first += kRun) {
      const uint64_t run = std::min(kRun, count - first);
      const bool f64 = tensor.dtype == DType::f64;
      checkpoint.read(parameter.name, first, run, f64 ? static_cast<void*>(wide.data()) : narrow.data());
      for (uint64_t j = 0; j < run; ++j)
        store(to, dtype, static_cast<int64_t>(first + j), f64 ? wide[j] : static_cast<double>(narrow[j]));
    }
  }
}

}  // namespace capstan
