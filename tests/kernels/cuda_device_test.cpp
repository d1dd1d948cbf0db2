// label: cpu, links: capstan_cuda_emulated
// The CUDA device behind kernels/device.h, over the emulated runtime.
#include "kernels/cuda/cuda_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/cuda/device_peaks.h"
#include "kernels/cuda/nvml.h"
#include "tests/emulated_cuda/emulated_cuda.h"

namespace capstan::kernels::testing {
namespace {

using ::testing::HasSubstr;

/// What the call throws; empty when it does not.
template <typename Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

std::vector<int> counted(size_t count) {
  std::vector<int> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 1);
  return numbers;
}

TEST(CudaDevice, TellsItsFacts) {
  const auto device = open_cuda_device(0);
  const DeviceFacts facts = device->facts();
  EXPECT_EQ(facts.index, 0);
  EXPECT_FALSE(facts.name.empty());
  EXPECT_GE(facts.major, 8);
  EXPECT_EQ(facts.multiprocessors, emulated_cuda::switches().multiprocessors);
  EXPECT_EQ(facts.memory_bytes, emulated_cuda::switches().device_bytes);
  EXPECT_LE(facts.free_bytes, facts.memory_bytes);
  EXPECT_THAT(facts.driver, HasSubstr("."));
  EXPECT_EQ(cuda_device_count(), 1);
}

TEST(CudaDevice, RefusesANumberThatIsNotThere) {
  EXPECT_THAT(refusal([] { open_cuda_device(1); }), HasSubstr("CUDA device 1 was asked for, and there are 1"));
  EXPECT_THAT(refusal([] { open_cuda_device(-1); }), HasSubstr("CUDA device -1"));
}

TEST(CudaDevice, SaysWhyADriverThatIsThereDoesNotServe) {
  const emulated_cuda::Switches before = emulated_cuda::switches();
  EXPECT_EQ(cuda_trouble(), "");
  emulated_cuda::switches().driver_version = 12080;
  EXPECT_THAT(cuda_trouble(), HasSubstr("too old: it serves CUDA up to 12.8, this build needs 13.0"));
  EXPECT_THAT(refusal([] { open_cuda_device(0); }), HasSubstr("too old"));
  emulated_cuda::switches().driver_version = 0;
  EXPECT_EQ(cuda_trouble(), "") << "no driver: nobody expects a device";
  emulated_cuda::switches() = before;
  emulated_cuda::switches().start = cudaErrorSystemNotReady;
  EXPECT_EQ(cuda_device_count(), 0);
  EXPECT_THAT(cuda_trouble(), HasSubstr("fabric manager"));
  EXPECT_THAT(refusal([] { open_cuda_device(0); }), HasSubstr("fabric manager"));
  emulated_cuda::switches().start = cudaErrorNoDevice;
  EXPECT_EQ(cuda_trouble(), "") << "a machine without";
  emulated_cuda::switches() = before;
  EXPECT_EQ(cuda_device_count(), 1) << "no error is left behind";
}

TEST(CudaDevice, AnIdentityIsThatOfTheDeviceAndNotItsNumber) {
  emulated_cuda::switches().devices = 2;
  const std::string first = cuda_device_identity(0), second = cuda_device_identity(1);
  EXPECT_EQ(first.size(), 32u);
  EXPECT_NE(first, second);
  EXPECT_EQ(cuda_device_identity(2), "");
  emulated_cuda::switches().devices = 1;
}

TEST(CudaDevice, NewMemoryIsZeroAndCopiesComeBack) {
  const auto device = open_cuda_device(0);
  const size_t bytes = 1000 * sizeof(int);
  void* memory = device->allocate(bytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0u);
  std::vector<int> back(1000, 7);
  device->copy_out(back.data(), memory, bytes, device->main_stream());
  device->finish(device->main_stream());
  EXPECT_EQ(std::count(back.begin(), back.end(), 0), 1000);
  auto* pinned = static_cast<int*>(device->allocate_pinned(bytes));
  EXPECT_EQ(std::count(pinned, pinned + 1000, 0), 1000);
  const std::vector<int> sent = counted(1000);
  std::copy(sent.begin(), sent.end(), pinned);
  device->copy_in(memory, pinned, bytes, device->main_stream());
  device->copy_out(back.data(), memory, bytes, device->main_stream());
  device->finish(device->main_stream());
  EXPECT_TRUE(back == sent);
  device->release_pinned(pinned);
  device->release(memory);
}

TEST(CudaDevice, SaysHowMuchMemoryIsMissing) {
  const auto device = open_cuda_device(0);
  const size_t before = device->facts().free_bytes;
  try {
    device->allocate(emulated_cuda::switches().device_bytes + (size_t{1} << 30));
    FAIL() << "more memory than there is";
  } catch (const OutOfDeviceMemory& error) {
    EXPECT_THAT(error.what(), HasSubstr("5.00 GiB were asked for"));
    EXPECT_THAT(error.what(), HasSubstr("of 4.00 GiB are free"));
    EXPECT_THAT(error.what(), HasSubstr("microbatch"));
  }
  EXPECT_EQ(device->facts().free_bytes, before);
  void* memory = device->allocate(1 << 20);  // the failure is not remembered
  EXPECT_LT(device->facts().free_bytes, before);
  EXPECT_GE(device->state().memory_used_bytes, 1 << 20);
  device->release(memory);
}

TEST(CudaDevice, EventsOrderStreams) {
  auto& switches = emulated_cuda::switches();
  switches.late = true;  // a stream runs only when somebody waits for it
  {
    const auto device = open_cuda_device(0);
    const Stream side = device->open_stream();
    const Event filled = device->make_event(), never = device->make_event();
    EXPECT_TRUE(device->is_past(never)) << "one that was never recorded is past";
    const std::vector<int> sent = counted(64);
    void* memory = device->allocate(sent.size() * sizeof(int));
    std::vector<int> back(64);
    device->copy_in(memory, sent.data(), sent.size() * sizeof(int), side);
    device->record(filled, side);
    device->wait(device->main_stream(), filled);
    device->copy_out(back.data(), memory, back.size() * sizeof(int), device->main_stream());
    device->finish(device->main_stream());
    EXPECT_TRUE(back == sent);
    EXPECT_TRUE(device->is_past(filled));
    const Event last = device->make_event();
    device->record(last, device->main_stream());
    device->finish(last);
    EXPECT_GE(device->seconds_between(filled, last), 0.0);
    device->release(memory);
  }
  switches.late = false;
}

TEST(CudaDevice, AGraphReplaysWhatWasCaptured) {
  const auto device = open_cuda_device(0);
  const Stream stream = device->main_stream();
  const size_t bytes = 16 * sizeof(int);
  void* from = device->allocate(bytes);
  void* to = device->allocate(bytes);
  auto* pinned = static_cast<int*>(device->allocate_pinned(bytes));
  device->begin_capture(stream);
  device->copy_in(from, pinned, bytes, stream);
  device->copy_out(pinned + 8, from, bytes / 2, stream);
  const std::unique_ptr<DeviceGraph> graph = device->end_capture(stream);
  EXPECT_EQ(pinned[8], 0) << "nothing ran while it was captured";
  for (const int value : {3, 5}) {
    pinned[0] = value;
    graph->launch(stream);
    device->finish(stream);
    EXPECT_EQ(pinned[8], value);
  }
  device->begin_capture(stream);
  EXPECT_NE(refusal([&] { device->finish(stream); }), "") << "the host cannot wait for what is only captured";
  device->drop_capture(stream);
  graph->launch(stream);  // and the stream works on
  device->finish(stream);
  device->release_pinned(pinned);
  device->release(to);
  device->release(from);
}

TEST(DevicePeaks, AreThoseOfTheDataSheetOrUnknown) {
  using cuda::device_peaks;
  EXPECT_EQ(device_peaks("NVIDIA A100-SXM4-80GB").bf16, 312e12);
  EXPECT_EQ(device_peaks("NVIDIA A100 80GB PCIe").tf32, 156e12);
  EXPECT_EQ(device_peaks("NVIDIA H100 80GB HBM3").bf16, 989.4e12);
  EXPECT_EQ(device_peaks("NVIDIA H100 PCIe").bf16, 756e12);
  EXPECT_EQ(device_peaks("NVIDIA H100 NVL").bf16, 835e12);
  EXPECT_EQ(device_peaks("NVIDIA H200").bf16, 989.4e12);
  EXPECT_EQ(device_peaks("NVIDIA GH200 480GB").bf16, 989.4e12);
  EXPECT_EQ(device_peaks("NVIDIA B200").bf16, 2250e12);
  EXPECT_EQ(device_peaks("NVIDIA GB200").bf16, 2500e12);
  EXPECT_EQ(device_peaks("NVIDIA RTX A1000").bf16, 0.0);
  EXPECT_EQ(device_peaks("NVIDIA B2000").bf16, 0.0);
  EXPECT_EQ(device_peaks("").bf16, 0.0);
}

TEST(DeviceMonitor, NamesWhyAClockIsHeldDown) {
  EXPECT_EQ(cuda::throttle_reasons(0), "");
  EXPECT_EQ(cuda::throttle_reasons(1), "") << "an idle device is not throttled";
  EXPECT_EQ(cuda::throttle_reasons(0x4), "power cap");
  EXPECT_EQ(cuda::throttle_reasons(0x20 | 0x80), "heat, power brake");
}

}  // namespace
}  // namespace capstan::kernels::testing
