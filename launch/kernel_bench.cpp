#include "launch/kernel_bench.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

#include "core/arena.h"
#include "core/error.h"
#include "kernels/optimizer.h"
#include "kernels/philox.h"
#include "launch/console.h"
#include "launch/machine_ceiling.h"

namespace capstan {
namespace {

constexpr size_t kOperandAlignment = 256;
constexpr int64_t kMostCopies = 64;
constexpr int64_t kMostCalls = 1000;

size_t padded(size_t bytes) { return (bytes + kOperandAlignment - 1) / kOperandAlignment * kOperandAlignment; }

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t local_bytes(const Tape& tape, TensorId id) {
  const TensorSpec& spec = tape.at(id).spec;
  return static_cast<size_t>(element_count(local_shape(spec, tape.mesh))) * bytes_of(spec.dtype);
}

/// "512x768 bf16, 3072x768 bf16 -> 512x3072 bf16"
std::string operands_text(const Tape& tape, const Node& node) {
  std::string text;
  for (const auto* list : {&node.inputs, &node.outputs}) {
    if (list == &node.outputs) text += text.empty() ? "-> " : " -> ";
    bool first = true;
    for (const TensorId id : *list) {
      if (id == kNoTensor) continue;
      const Shape shape = local_shape(tape.at(id).spec, tape.mesh);
      std::string extents;
      for (const int64_t extent : shape) extents += (extents.empty() ? "" : "x") + std::to_string(extent);
      text +=
          fmt::format("{}{} {}", first ? "" : ", ", extents.empty() ? "1" : extents, name_of(tape.at(id).spec.dtype));
      first = false;
    }
  }
  return text;
}

/// In whose products an op could at best be as fast: the first floating operand's.
DType dtype_of(const Tape& tape, const Node& node) {
  for (const auto* list : {&node.inputs, &node.outputs})
    for (const TensorId id : *list)
      if (id != kNoTensor && is_floating(tape.at(id).spec.dtype)) return tape.at(id).spec.dtype;
  return DType::f32;
}

template <typename T, typename Value>
void fill_as(void* to, size_t bytes, Value&& value) {
  T* values = static_cast<T*>(to);
  for (size_t i = 0; i < bytes / sizeof(T); ++i) values[i] = static_cast<T>(value(i));
}

void fill_floating(void* to, size_t bytes, DType dtype, const std::function<float(size_t)>& value) {
  switch (dtype) {
    case DType::f64:
      return fill_as<double>(to, bytes, value);
    case DType::f32:
      return fill_as<float>(to, bytes, value);
    case DType::bf16:
      return fill_as<BFloat16>(to, bytes, value);
    case DType::f16:
      return fill_as<Float16>(to, bytes, value);
    default:
      return;
  }
}

float unit_value(size_t i) { return static_cast<float>(unit_float(philox_word(11, 1, i))); }

/// What one operand is filled with, repeated over it: values that an op of a step could meet, for speed goes by them
/// where rows are gathered, where nothing is to be done, and where the clock follows the power drawn.
std::vector<char> contents_of(const TapeTensor& tensor, size_t bytes, int64_t context, int64_t vocabulary) {
  constexpr size_t kPeriod = size_t{256} << 10;
  std::vector<char> block(std::min(bytes, kPeriod), 0);
  void* to = block.data();
  const DType dtype = tensor.spec.dtype;
  const std::string& name = tensor.name;
  if (tensor.purpose == Purpose::scalar) {
    const kernels::StepScalars scalars{.learning_rate = 1e-4};
    if (name == "step.scalars") std::memcpy(to, &scalars, std::min(block.size(), sizeof scalars));
  } else if (tensor.purpose == Purpose::input) {
    if (is_floating(dtype)) fill_floating(to, block.size(), dtype, [](size_t) { return 1.0f; });
    if (name == "input.tokens" || name == "input.targets")  // towards small ids, as text is
      fill_as<int32_t>(to, block.size(), [&](size_t i) {
        const double u = unit_value(i);
        return static_cast<int32_t>(u * u * u * static_cast<double>(vocabulary));
      });
    if (name == "input.positions")
      fill_as<int32_t>(to, block.size(),
                       [&](size_t i) { return static_cast<int64_t>(i) % std::max<int64_t>(context, 1); });
  } else {
    const bool positive = tensor.purpose == Purpose::moment || tensor.purpose == Purpose::statistic;
    fill_floating(to, block.size(), dtype,
                  [&](size_t i) { return positive ? unit_value(i) + 0.01f : unit_value(i) - 0.5f; });
  }
  return block;
}

}  // namespace

/// Copies of an op's operands in one arena.
struct KernelBench::Operands {
  Operands(const Plan& plan, size_t index, const KernelBench& bench) : node(plan.tape.nodes[index]) {
    place(plan);
    scratch_bytes = padded(plan.scratch_bytes[index]);
    const int64_t wanted = static_cast<int64_t>(bench.options_.cold_bytes / std::max<size_t>(stride, 1)) + 1;
    copies = std::clamp<int64_t>(wanted, 1, kMostCopies);
    const size_t bytes = stride * static_cast<size_t>(copies) + scratch_bytes + kOperandAlignment;
    if (bench.options_.most_bytes > 0 && bytes > bench.options_.most_bytes)
      throw Error::make(ExitCode::config, "it needs {}", bytes_text(static_cast<double>(bytes)));
    arena = Arena(bytes, bench.device_.runtime());
    fill(plan, bench);
    for (int64_t copy = 0; copy < copies; ++copy)
      for (const auto& [list, pointers] : {std::pair{&node.inputs, &in}, {&node.outputs, &out}})
        for (const TensorId id : *list) pointers->push_back(id == kNoTensor ? nullptr : address(id, copy));
  }

  /// Each tensor once; an output that the plan put in its input's place is there here too.
  void place(const Plan& plan) {
    for (const TensorId id : node.inputs) add(plan, id);
    for (const InPlace& pair : node.op->in_place()) {
      const auto at = [](const std::vector<TensorId>& ids, int i) {
        return i >= 0 && static_cast<size_t>(i) < ids.size() ? ids[static_cast<size_t>(i)] : kNoTensor;
      };
      const TensorId from = at(node.inputs, pair.input), to = at(node.outputs, pair.output);
      if (from == kNoTensor || to == kNoTensor || offsets.contains(to)) continue;
      if (plan.tape.at(from).persistent >= 0 || plan.tape.at(to).persistent >= 0) continue;
      const auto planned = [&](TensorId id) { return plan.memory.offset[static_cast<size_t>(id)]; };
      if (planned(from) == planned(to) && local_bytes(plan.tape, to) <= local_bytes(plan.tape, from))
        offsets[to] = offsets[from];
    }
    for (const TensorId id : node.outputs) add(plan, id);
  }
  void add(const Plan& plan, TensorId id) {
    if (id == kNoTensor || offsets.contains(id)) return;
    offsets[id] = stride;
    stride += padded(local_bytes(plan.tape, id));
  }
  void fill(const Plan& plan, const KernelBench& bench) {
    const Tape& tape = plan.tape;
    std::set<size_t> filled;
    for (const auto* list : {&node.inputs, &node.outputs})
      for (const TensorId id : *list) {
        if (id == kNoTensor || !filled.insert(offsets.at(id)).second) continue;
        const size_t bytes = local_bytes(tape, id);
        const Shape shape = local_shape(tape.at(id).spec, tape.mesh);
        const std::vector<char> block =
            contents_of(tape.at(id), bytes, shape.empty() ? 1 : shape.back(), bench.options_.vocabulary);
        for (int64_t copy = 0; copy < copies; ++copy)
          for (size_t first = 0; first < bytes; first += block.size())
            put(bench, static_cast<char*>(address(id, copy)) + first, block.data(),
                std::min(block.size(), bytes - first));
      }
    if (bench.device_.runtime()) bench.device_.runtime()->finish(bench.device_.runtime()->main_stream());
  }
  static void put(const KernelBench& bench, char* to, const char* from, size_t bytes) {
    kernels::DeviceRuntime* runtime = bench.device_.runtime();
    if (runtime == nullptr) {
      std::memcpy(to, from, bytes);
      return;
    }
    runtime->copy_in(to, from, bytes, runtime->main_stream());
    runtime->finish(runtime->main_stream());  // the block goes away
  }
  void* address(TensorId id, int64_t copy) const {
    return arena.data() + static_cast<size_t>(copy) * stride + offsets.at(id);
  }
  void* scratch() const { return arena.data() + static_cast<size_t>(copies) * stride; }

  const Node& node;
  std::map<TensorId, size_t> offsets;
  size_t stride = 0, scratch_bytes = 0;
  int64_t copies = 1;
  Arena arena;
  std::vector<void*> in, out;  ///< of all copies, one after another
};

KernelBench::KernelBench(const RankDevice& device, const KernelBenchOptions& options)
    : device_(device), options_(options) {
  if (device.runtime())
    for (kernels::Event& event : events_) event = device.runtime()->make_event();
  copy_rate_ = measure_copy();
}

double KernelBench::product_rate(DType dtype) {
  const auto found = product_rates_.find(dtype);
  if (found != product_rates_.end()) return found->second;
  const int64_t side = device_.runtime() ? 8192 : device_.backend().name == "cpu" ? 1024 : 128;
  return product_rates_[dtype] = measure_product_rate(device_.backend(), dtype, side, 5, device_.runtime());
}

/// On the host every thread copies a part: one call is one thread's work.
double KernelBench::measure_copy() const {
  kernels::DeviceRuntime* runtime = device_.runtime();
  const size_t bytes = size_t{runtime ? 512u : 64u} << 20;
  const Arena arena(2 * bytes, runtime);
  const kernels::Stream stream = runtime ? runtime->main_stream() : nullptr;
  const int parts = runtime ? 1 : omp_get_max_threads();
  const size_t part = bytes / static_cast<size_t>(parts) / 64 * 64;
  double best = 0.0;
  for (int i = 0; i < 6; ++i) {
    const double start = now_seconds();
#pragma omp parallel for num_threads(parts) if (parts > 1)
    for (int p = 0; p < parts; ++p) {
      kernels::CopyArgs args;
      args.from = arena.data() + static_cast<size_t>(p) * part;
      args.to = arena.data() + bytes + static_cast<size_t>(p) * part;
      args.row_bytes = part, args.stream = stream;
      device_.backend().copy(args);
    }
    if (runtime) runtime->finish(stream);
    const double seconds = now_seconds() - start;
    if (i > 0) best = std::max(best, 2.0 * static_cast<double>(part * static_cast<size_t>(parts)) / seconds);
  }
  return best;
}

/// Seconds of `count` calls.
double KernelBench::time_calls(const std::function<void(int64_t)>& call, int64_t count, bool capturable) {
  const auto all = [&] {
    for (int64_t i = 0; i < count; ++i) call(i);
  };
  kernels::DeviceRuntime* runtime = device_.runtime();
  if (runtime == nullptr) {
    const double start = now_seconds();
    all();
    return now_seconds() - start;
  }
  const kernels::Stream stream = runtime->main_stream();
  std::unique_ptr<kernels::DeviceGraph> graph;
  if (capturable && device_.captures() && count > 1) {
    runtime->begin_capture(stream);
    try {
      all();
    } catch (...) {
      runtime->drop_capture(stream);
      throw;
    }
    graph = runtime->end_capture(stream);
    graph->launch(stream);  // the first launch uploads it
    runtime->finish(stream);
  }
  const kernels::Event first = events_[0], last = events_[1];
  runtime->record(first, stream);
  graph ? graph->launch(stream) : all();
  runtime->record(last, stream);
  runtime->finish(last);
  return runtime->seconds_between(first, last);
}

void KernelBench::time(const Plan& plan, size_t index, bool accumulate, KernelRow& row) {
  const Operands operands(plan, index, *this);
  const Node& node = plan.tape.nodes[index];
  const kernels::Stream stream = device_.runtime() ? device_.runtime()->main_stream() : nullptr;
  const auto call = [&](int64_t i) {
    const auto copy = static_cast<size_t>(i % operands.copies);
    plan.bound[index].run({operands.in.data() + copy * node.inputs.size(),
                           operands.out.data() + copy * node.outputs.size(), operands.scratch(), accumulate, stream});
  };
  const bool capturable = node.op->capturable();
  time_calls(call, 1, false);  // libraries load what they need
  const double one = std::max(time_calls(call, 1, false), 1e-7);
  const auto count = static_cast<int64_t>(std::clamp(options_.seconds / one, 1.0, static_cast<double>(kMostCalls)));
  std::vector<double> times;
  for (int i = 0; i < options_.rounds; ++i)
    times.push_back(time_calls(call, count, capturable) / static_cast<double>(count));
  std::sort(times.begin(), times.end());
  row.seconds = times[times.size() / 2], row.least = times.front(), row.most = times.back();
}

std::vector<KernelRow> KernelBench::measure(const Plan& plan, int64_t microbatches,
                                            const std::function<void(const KernelRow&, size_t, size_t)>& told) {
  struct Found {
    size_t node;
    bool accumulate;
    KernelRow row;
  };
  std::map<std::string, size_t> known;
  std::vector<Found> all;
  for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
    const Node& node = plan.tape.nodes[i];
    if (node.op->is_collective()) continue;
    const bool replayed = node.part == Part::forward || node.part == Part::backward || node.part == Part::weights;
    const bool accumulate = node.accumulate == Accumulate::always ||
                            (node.accumulate == Accumulate::after_first_microbatch && microbatches > 1);
    const std::string operands = operands_text(plan.tape, node);
    const std::string key =
        fmt::format("{} {} {} {} {}", name_of(node.part), node.op->name(), node.op->attributes(), operands, accumulate);
    const auto [at, fresh] = known.emplace(key, all.size());
    if (fresh) {
      KernelRow row;
      row.op = node.op->name(), row.operands = operands, row.part = node.part;
      row.cost = plan.cost(i), row.dtype = dtype_of(plan.tape, node);
      all.push_back({i, accumulate, row});
    }
    all[at->second].row.calls += replayed ? static_cast<double>(microbatches) : 1.0;
  }
  std::vector<KernelRow> rows;
  for (Found& found : all) {
    if (told) told(found.row, rows.size(), all.size());
    try {
      time(plan, found.node, found.accumulate, found.row);
    } catch (const Error& e) {  // memory that is not there
      if (e.code() != ExitCode::config) throw;
      found.row.left_out = e.what();
    }
    const double products = found.row.cost.flops > 0.0 ? found.row.cost.flops / product_rate(found.row.dtype) : 0.0;
    found.row.roof_seconds = std::max(products, found.row.cost.bytes / copy_rate_);
    rows.push_back(std::move(found.row));
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const KernelRow& a, const KernelRow& b) { return a.step_seconds() > b.step_seconds(); });
  return rows;
}

std::string table_of(const std::vector<KernelRow>& rows) {
  double total = 0.0, roof = 0.0;
  for (const KernelRow& row : rows)
    if (row.left_out.empty()) total += row.step_seconds(), roof += row.calls * row.roof_seconds;
  std::string text = fmt::format("{:>6} {:>7} {:>6} {:>11} {:>11} {:>11} {:>9}  {:<9} {:<26} {}\n", "share", "roof",
                                 "calls", "us a call", "ms a step", "GFLOP/s", "GB/s", "part", "op", "operands");
  for (const KernelRow& row : rows) {
    const std::string what = fmt::format("{:<9} {:<26} {}\n", name_of(row.part), row.op, row.operands);
    if (!row.left_out.empty()) {
      text += fmt::format("{:>6} not measured: {}  {}", "-", row.left_out, what);
      continue;
    }
    text += fmt::format("{:>5.1f}% {:>6.1f}% {:>6.0f} {:>11.2f} {:>11.3f} {:>11.1f} {:>9.1f}  {}",
                        100.0 * row.step_seconds() / total, 100.0 * row.roof_seconds / row.seconds, row.calls,
                        1e6 * row.seconds, 1e3 * row.step_seconds(), row.cost.flops / row.seconds * 1e-9,
                        row.cost.bytes / row.seconds * 1e-9, what);
  }
  text += fmt::format("all ops one after another {:.3f} ms a step; at the ceilings {:.3f} ms ({:.1f}%)\n", 1e3 * total,
                      1e3 * roof, 100.0 * roof / total);
  return text;
}

}  // namespace capstan
