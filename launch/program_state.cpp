#include "launch/program_state.h"

#include <algorithm>

#include "core/error.h"
#include "io/weights/element_cast.h"

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
      visit(std::string(prefix), static_cast<int>(i), parameters.at(static_cast<int>(i)));
}

/// Elements of a tensor as `dtype`, whatever floating type it is stored in: converted models keep their own.
void read_as(Checkpoint& checkpoint, const LogicalTensor& tensor, const Runs& runs, DType dtype, void* to) {
  if (tensor.dtype == dtype) return checkpoint.read(tensor.name, runs, to);
  if (!is_weight_dtype(tensor.dtype))
    throw Error::make(ExitCode::bad_data, "checkpoint {}: {} is of type {}, wanted f64, f32, bf16 or f16",
                      checkpoint.path().string(), tensor.name, name_of(tensor.dtype));
  std::vector<char> stored(runs.elements() * bytes_of(tensor.dtype));
  checkpoint.read(tensor.name, runs, stored.data());
  cast_elements(stored.data(), tensor.dtype, to, dtype, runs.elements());
}

/// The elements of a state tensor that this rank holds, padding left out, and where in its memory they begin.
Runs local_runs(const Program& program, const std::string& name, const Parameter& parameter) {
  const TensorSpec& spec = program.persistent().at(program.persistent().find(name)).spec;
  const int64_t logical = element_count(parameter.logical_shape());
  Runs runs{0, 0, 0, 0};
  each_local_run(spec, program.mesh(), [&](int64_t global, int64_t, int64_t count) {
    count = std::min(count, logical - global);
    if (count <= 0) return;
    const uint64_t first = static_cast<uint64_t>(global), length = static_cast<uint64_t>(count);
    if (runs.runs == 0) runs = {first, length, 0, 0};
    if (runs.runs == 1) runs.stride = first - runs.first;
    CAPSTAN_CHECK(length == runs.count && first == runs.first + runs.runs * runs.stride, "{}: shard of uneven runs",
                  name);
    ++runs.runs;
  });
  return runs;
}

/// Part `index` of `parts` of these runs: whole runs where there are several, else a stretch of the one. `skipped`: the
/// elements of the parts before it.
Runs part_of(const Runs& runs, uint64_t index, uint64_t parts, uint64_t& skipped) {
  const auto bound = [&](uint64_t total, uint64_t i) { return total * i / parts; };
  if (runs.runs <= 1) {
    const uint64_t first = bound(runs.count, index), last = bound(runs.count, index + 1);
    skipped = first;
    return {runs.first + first, last - first, runs.runs, 0};
  }
  const uint64_t first = bound(runs.runs, index), last = bound(runs.runs, index + 1);
  skipped = first * runs.count;
  return {runs.first + first * runs.stride, runs.count, last - first, last - first > 1 ? runs.stride : 0};
}

/// Ranks that hold the same part of a state tensor, and which of them this one is.
std::pair<uint64_t, uint64_t> replica_of(const TrainingProgram& training, int parameter) {
  const Mesh& mesh = training.program().mesh();
  uint64_t index = 0, replicas = 1;
  for (const Axis axis : kAllAxes) {
    if (axis == Axis::pp) {
      const std::vector<int>& stages = training.holders(parameter);
      const auto own = std::find(stages.begin(), stages.end(), mesh.coordinate(Axis::pp)) - stages.begin();
      index = index * stages.size() + static_cast<uint64_t>(own), replicas *= stages.size();
      continue;
    }
    if (training.divides_state(parameter, axis)) continue;
    index = index * static_cast<uint64_t>(mesh.size(axis)) + static_cast<uint64_t>(mesh.coordinate(axis));
    replicas *= static_cast<uint64_t>(mesh.size(axis));
  }
  return {index, replicas};
}

Runs runs_of(const StatePiece& piece) {
  return {static_cast<uint64_t>(piece.first), static_cast<uint64_t>(piece.count), static_cast<uint64_t>(piece.runs),
          static_cast<uint64_t>(piece.stride)};
}

}  // namespace

StateSlices state_slices(const TrainingProgram& training) {
  StateSlices state;
  const DType dtype = training.master_dtype();
  each_state_tensor(training, [&](const std::string& prefix, int index, const Parameter& parameter) {
    state.tensors.push_back({prefix + parameter.name, dtype, shape_of(parameter)});
    const auto [replica, replicas] = replica_of(training, index);
    for (const StatePiece& piece : training.state_pieces(prefix, index)) {
      uint64_t skipped = 0;
      const Runs mine = part_of(runs_of(piece), replica, replicas, skipped);
      if (mine.elements() == 0) continue;
      const char* first = static_cast<const char*>(piece.data);
      const char* data = first ? first + skipped * bytes_of(dtype) : first;
      state.slices.push_back({prefix + parameter.name, mine.first, mine.count, data, mine.runs, mine.stride});
    }
  });
  return state;
}

StateSlices state_slices(const TrainingProgram& training, int rank, int ranks) {
  const Mesh& mesh = training.program().mesh();
  CAPSTAN_CHECK(rank == mesh.rank() && ranks == mesh.ranks(), "rank {} of {} saves as rank {} of {}", mesh.rank(),
                mesh.ranks(), rank, ranks);
  return state_slices(training);
}

namespace {

void load_parts(TrainingProgram& training, const std::string& prefix, int index, const Parameter& parameter,
                Checkpoint& checkpoint, bool weights_only) {
  constexpr uint64_t kRun = 1 << 22;
  const DType dtype = training.master_dtype();
  const LogicalTensor& tensor = require(checkpoint, prefix + parameter.name, parameter.logical_shape());
  if (tensor.dtype != dtype && !weights_only)
    throw Error::make(ExitCode::config, "checkpoint {} holds {} in {}, train.precision wants {}",
                      checkpoint.path().string(), tensor.name, name_of(tensor.dtype), name_of(dtype));
  for (const StatePiece& piece : training.state_pieces(prefix, index)) {
    const Runs all = runs_of(piece);
    // A cast needs room for what is stored, a copy to a device for what is copied.
    const uint64_t parts = weights_only || training.program().on_device() ? all.elements() / kRun + 1 : 1;
    for (uint64_t part = 0; part < parts; ++part) {
      uint64_t skipped = 0;
      const Runs runs = parts == 1 ? all : part_of(all, part, parts, skipped);
      if (runs.elements() == 0) continue;
      training.program().put_whole(static_cast<char*>(piece.data) + skipped * bytes_of(dtype),
                                   runs.elements() * bytes_of(dtype),
                                   [&](void* to) { read_as(checkpoint, tensor, runs, dtype, to); });
    }
  }
}

}  // namespace

void load_state(TrainingProgram& training, Checkpoint& checkpoint, bool weights_only,
                const std::function<void()>& between) {
  each_state_tensor(training, [&](const std::string& prefix, int index, const Parameter& parameter) {
    if (weights_only && !prefix.empty()) return;  // moments stay 0
    load_parts(training, prefix, index, parameter, checkpoint, weights_only);
    if (between) between();
  });
  training.refresh_working_copies();
}

void load_parameters(Program& program, DType dtype, Checkpoint& checkpoint) {
  constexpr uint64_t kRun = 1 << 20;
  for (size_t i = 0; i < program.parameters().size(); ++i) {
    const Parameter& parameter = program.parameters().at(static_cast<int>(i));
    if (program.persistent().at(program.persistent().find(parameter.name)).copies == 0) continue;  // another stage's
    const LogicalTensor& tensor = require(checkpoint, parameter.name, parameter.logical_shape());
    char* to = static_cast<char*>(program.address(parameter.name));
    const Runs mine = local_runs(program, parameter.name, parameter);
    const uint64_t parts = mine.elements() / kRun + 1;
    for (uint64_t part = 0; part < parts; ++part) {
      uint64_t at = 0;
      const Runs runs = part_of(mine, part, parts, at);
      if (runs.elements() > 0)
        program.put_whole(to + at * bytes_of(dtype), runs.elements() * bytes_of(dtype),
                          [&](void* host) { read_as(checkpoint, tensor, runs, dtype, host); });
    }
  }
}

}  // namespace capstan
