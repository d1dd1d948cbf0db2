// label: ranks, links: capstan_nccl_emulated capstan_cuda_emulated
// NCCL groups over the emulated CUDA device: device memory is closed to the host, sums of the tree are formed by the
// kernel that runs on GPUs.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "emulated_cuda.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/reduce_tree.h"
#include "nccl.h"
#include "parallel/nccl_session.h"
#include "parallel/rank_threads.h"
#include "parallel/reduction_tree.h"
#include "tests/parallel/communicator_suite.h"
#include "tests/support/host_side.h"

namespace capstan::testing {
namespace {

class NcclOverCuda : public ::testing::TestWithParam<std::tuple<int, suite::Check>> {};

TEST_P(NcclOverCuda, Passes) {
  const auto& [ranks, check] = GetParam();
  emulated_nccl::switches() = {emulated_cuda::enqueue, true, 30, emulated_cuda::is_capturing};
  run_rank_threads(ranks, [run = check.run](Communicator& control) {
    const auto device = kernels::open_cuda_device(0);
    NcclOptions options;
    options.scratch_bytes = 20000;
    NcclSession session(*device, {kernels::cuda::copy, kernels::cuda::reduce_tree}, options);
    const kernels::Stream stream = device->main_stream();
    HostSide group(*device, stream, session.group(control, stream));
    run(group);
    control.barrier();
  });
}

std::vector<suite::Check> quick_checks() {
  std::vector<suite::Check> checks;
  for (const suite::Check& check : suite::checks())
    for (const char* name : {"AllReduceKeepsNan", "AllToAll", "Shift", "Channels", "Split", "Count", "GatherStrings"})
      if (std::string(check.name) == name) checks.push_back(check);
  return checks;
}

INSTANTIATE_TEST_SUITE_P(Cuda, NcclOverCuda,
                         ::testing::Combine(::testing::Values(2, 3), ::testing::ValuesIn(quick_checks())),
                         [](const auto& test) {
                           return fmt::format("{}Of{}", std::get<1>(test.param).name, std::get<0>(test.param));
                         });

TEST(NcclOverCudaSums, HaveTheBitsOfTheTree) {
  emulated_nccl::switches() = {emulated_cuda::enqueue, true, 30, emulated_cuda::is_capturing};
  run_rank_threads(3, [](Communicator& control) {
    const auto device = kernels::open_cuda_device(0);
    NcclSession session(*device, {kernels::cuda::copy, kernels::cuda::reduce_tree}, {});
    HostSide group(*device, device->main_stream(), session.group(control, device->main_stream()));
    for (const size_t count : {1, 7, 3001}) {
      suite::all_reduce_of<float>(group, count, ReduceOp::sum);
      suite::all_reduce_of<BFloat16>(group, count, ReduceOp::max);
      suite::reduce_scatter_of<BFloat16>(group, count, Reduction::ordered);
    }
    control.barrier();
  });
}

// ---- graphs that hold calls of a communicator

/// A sum of `group` in a graph, replayed once.
std::unique_ptr<kernels::DeviceGraph> captured_sum(kernels::DeviceRuntime& device, Communicator& group, void* data) {
  const kernels::Stream stream = device.main_stream();
  device.begin_capture(stream);
  group.all_reduce(data, 16, DType::f32, ReduceOp::sum, Reduction::fast);
  std::unique_ptr<kernels::DeviceGraph> graph = device.end_capture(stream);
  graph->launch(stream);
  device.finish(stream);
  return graph;
}

/// Rank 1 fails, or dies of an exception, while graphs live; `fail` gets the two groups. NCCL's abort then waits for
/// the graphs, which nobody may wait for: the other group's kernels have to end, and the job.
void fail_with_graphs(const std::function<void(Communicator&, Communicator&)>& fail) {
  using Clock = std::chrono::steady_clock;
  emulated_nccl::switches() = {emulated_cuda::enqueue, true, 12, emulated_cuda::is_capturing};
  std::atomic<bool> failed{false};
  const auto body = [&](Communicator& control) {
    const auto device = kernels::open_cuda_device(0);
    const std::shared_ptr<void> data(device->allocate(64), [&](void* p) { device->release(p); });
    std::unique_ptr<kernels::DeviceGraph> graph;  // outlives the groups
    NcclOptions options;
    options.watch_seconds = 0.02;
    const auto start = Clock::now();
    try {
      NcclSession session(*device, {kernels::cuda::copy, kernels::cuda::reduce_tree}, options);
      const auto captured = session.group(control, device->main_stream());
      const auto beside = session.group(control, device->main_stream());
      graph = captured_sum(*device, *captured, data.get());
      control.barrier();
      if (control.rank() == 1) fail(*captured, *beside);
      for (;;) {
        beside->all_reduce(data.get(), 16, DType::f32, ReduceOp::sum, Reduction::fast);
        device->finish(device->main_stream());
      }
    } catch (const std::exception&) {
      failed = true;
    }
    EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 9.0) << "rank " << control.rank();
  };
  try {
    run_rank_threads(2, body);
  } catch (const std::exception&) {  // who waits in the control group is told
  }
  EXPECT_TRUE(failed);
  const auto until = Clock::now() + std::chrono::seconds(5);
  while (emulated_nccl::alive().communicators > 0 && Clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(emulated_nccl::alive().communicators, 0) << "they end when the graphs have gone";
}

TEST(NcclOverCudaGraphs, AFailureEndsAllGroupsThoughAGraphHoldsCalls) {
  fail_with_graphs([](Communicator& captured, Communicator&) {
    captured.abort("shard 7 is torn", 65);
    throw Error(ExitCode::bad_data, "shard 7 is torn");
  });
}

TEST(NcclOverCudaGraphs, AnExceptionPassesThroughGroupsWhoseGraphsLive) {
  fail_with_graphs([](Communicator&, Communicator&) { throw Error(ExitCode::bad_data, "shard 7 is torn"); });
}

// ---- the kernel alone

struct OnDevice {
  explicit OnDevice(kernels::DeviceRuntime& the_device, size_t bytes)
      : device(the_device), at(static_cast<char*>(device.allocate(bytes))) {}
  ~OnDevice() { device.release(at); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  kernels::DeviceRuntime& device;
  char* at;
};

/// Inputs of all ranks as `dtype`, small whole numbers and fractions alike.
std::vector<std::vector<char>> inputs_of(DType dtype, int ranks, size_t count) {
  std::vector<std::vector<char>> inputs;
  for (int r = 0; r < ranks; ++r) {
    std::vector<char>& bytes = inputs.emplace_back(count * bytes_of(dtype));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(suite::bits_of(r, i, 5));
    if (dtype == DType::bf16 || dtype == DType::f16)  // exponents near one
      for (size_t i = 1; i < bytes.size(); i += 2) bytes[i] = static_cast<char>((bytes[i] & 0x83) | 0x3c);
    if (dtype == DType::f32 || dtype == DType::f64)
      for (size_t i = bytes_of(dtype) - 1; i < bytes.size(); i += bytes_of(dtype))
        bytes[i] = static_cast<char>((bytes[i] & 0x80) | 0x3f);
  }
  return inputs;
}

void compare(kernels::DeviceRuntime& device, DType dtype, int ranks, size_t count, size_t skew, bool max, int own) {
  const auto inputs = inputs_of(dtype, ranks, count);
  std::vector<const void*> pointers;
  for (const auto& input : inputs) pointers.push_back(input.data());
  std::vector<char> wanted(count * bytes_of(dtype)), got(wanted.size());
  reduce_tree(wanted.data(), pointers.data(), ranks, count, dtype, max ? ReduceOp::max : ReduceOp::sum);

  const size_t bytes = wanted.size(), offset = skew * bytes_of(dtype), stride = (bytes + 255) / 256 * 256;
  OnDevice all(device, stride * static_cast<size_t>(ranks) + offset), mine(device, bytes + offset);
  const kernels::Stream stream = device.main_stream();
  for (int r = 0; r < ranks; ++r)
    device.copy_in(r == own ? mine.at + offset : all.at + static_cast<size_t>(r) * stride + offset,
                   inputs[static_cast<size_t>(r)].data(), bytes, stream);
  kernels::cuda::reduce_tree({.inputs = all.at + offset,
                              .stride = stride,
                              .ranks = ranks,
                              .own = own,
                              .own_input = own >= 0 ? mine.at + offset : nullptr,
                              .out = mine.at + offset,
                              .count = static_cast<int64_t>(count),
                              .dtype = dtype,
                              .max = max,
                              .stream = stream});
  device.copy_out(got.data(), mine.at + offset, bytes, stream);
  device.finish(stream);
  EXPECT_EQ(std::memcmp(got.data(), wanted.data(), bytes), 0)
      << name_of(dtype) << ", " << ranks << " ranks, " << count << " elements, skew " << skew << ", own " << own;
}

TEST(ReduceTreeKernel, HasTheBitsOfTheHosts) {
  const auto device = kernels::open_cuda_device(0);
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32})
    for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8, 13, 64})
      for (const size_t skew : {size_t{0}, size_t{1}})
        for (const bool max : {false, true})
          compare(*device, dtype, ranks, ranks == 3 ? 1037 : 133, skew, max, ranks % 2 == 0 ? -1 : ranks / 2);
}

TEST(ReduceTreeKernel, RefusesWhatCannotBeSummed) {
  kernels::ReduceTreeArgs args;
  args.ranks = 2, args.dtype = DType::u8;
  EXPECT_THROW(kernels::cuda::reduce_tree(args), std::invalid_argument);
  args.dtype = DType::f32, args.ranks = 0;
  EXPECT_THROW(kernels::cuda::reduce_tree(args), std::invalid_argument);
}

}  // namespace
}  // namespace capstan::testing
