// label: cpu, links: capstan_emulated_cuda
// The emulation of CUDA itself: its barriers and warp functions answer as CUDA's do, and each mistake that it is there
// to find is made once and found.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kernels/cuda/launch.cuh"

namespace capstan::kernels::cuda {
namespace {

using emulated_cuda::Fault;
using emulated_cuda::Order;

/// Device memory with contents, and the way back.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    check(cudaMalloc(&at_, count_ * sizeof(T)), "cudaMalloc");
    check(cudaMemcpy(at_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~OnDevice() { cudaFree(at_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return at_; }
  std::vector<T> values() const {
    std::vector<T> all(count_);
    check(cudaMemcpy(all.data(), at_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return all;
  }

 private:
  T* at_ = nullptr;
  size_t count_;
};

class EmulatedCuda : public ::testing::Test {
 protected:
  void SetUp() override { before_ = emulated_cuda::switches(); }
  void TearDown() override { emulated_cuda::switches() = before_; }

 private:
  emulated_cuda::Switches before_;
};

std::vector<float> counted(size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

/// y[block] = sum of the block's part of x, by shuffles, static shared memory and a second round of shuffles.
__global__ void sum_blocks(const float* x, float* y, int n) {
  __shared__ float of_warp[32];
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < n ? x[i] : 0.0f;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  if (lane == 0) of_warp[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  sum = lane < warps ? of_warp[lane] : 0.0f;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0) y[blockIdx.x] = sum;
}

TEST_F(EmulatedCuda, BlocksAddUpInEveryOrder) {
  const OnDevice<float> x(counted(1000)), y(std::vector<float>(8));
  for (const Order order : {Order::forward, Order::reversed, Order::shuffled}) {
    emulated_cuda::switches().order = order;
    launch(sum_blocks, dim3(8), dim3(128), 0, nullptr, x.get(), y.get(), 1000);
    const std::vector<float> got = y.values();
    for (int b = 0; b < 8; ++b) {
      float want = 0;
      for (int i = b * 128; i < std::min(1000, (b + 1) * 128); ++i) want += static_cast<float>(i + 1);
      EXPECT_EQ(got[static_cast<size_t>(b)], want);
    }
  }
}

__global__ void all_warp_functions(int* y) {
  const int lane = static_cast<int>(threadIdx.x);
  int* row = y + lane * 10;
  row[0] = __shfl_sync(0xffffffffu, lane, 5);
  row[1] = __shfl_sync(0xffffffffu, lane, 5, 8);
  row[2] = __shfl_up_sync(0xffffffffu, lane, 3);
  row[3] = __shfl_down_sync(0xffffffffu, lane, 3, 16);
  row[4] = __shfl_xor_sync(0xffffffffu, lane, 9);
  row[5] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
  row[6] = __any_sync(0xffffffffu, lane == 7);
  row[7] = __all_sync(0xffffffffu, lane < 31);
  row[8] = static_cast<int>(__reduce_add_sync(0xffffffffu, static_cast<unsigned>(lane)));
  row[9] = lane < 16 ? __shfl_sync(0x0000ffffu, lane, 3) : __shfl_sync(0xffff0000u, lane, 20);
}

TEST_F(EmulatedCuda, WarpFunctionsAnswerAsDocumented) {
  const OnDevice<int> y(std::vector<int>(320));
  launch(all_warp_functions, dim3(1), dim3(32), 0, nullptr, y.get());
  const std::vector<int> got = y.values();
  for (int lane = 0; lane < 32; ++lane) {
    SCOPED_TRACE(lane);
    const int* row = got.data() + lane * 10;
    EXPECT_EQ(row[0], 5);
    EXPECT_EQ(row[1], lane / 8 * 8 + 5);
    EXPECT_EQ(row[2], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(row[3], lane % 16 + 3 > 15 ? lane : lane + 3);
    EXPECT_EQ(row[4], lane ^ 9);
    EXPECT_EQ(static_cast<unsigned>(row[5]), 0x49249249u);
    EXPECT_EQ(row[6], 1);
    EXPECT_EQ(row[7], 0);
    EXPECT_EQ(row[8], 496);
    EXPECT_EQ(row[9], lane < 16 ? 3 : 20);
  }
}

/// Turns a block's part of x around, with the barrier or without it.
template <bool kBarrier>
__global__ void reverse_blocks(const float* x, float* y) {
  CAPSTAN_SHARED_MEMORY(raw);
  float* shared = reinterpret_cast<float*>(raw);
  shared[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  if (kBarrier) __syncthreads();
  y[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST_F(EmulatedCuda, AMissingBarrierReadsNaN) {
  const OnDevice<float> x(counted(256)), y(std::vector<float>(256));
  launch(reverse_blocks<true>, dim3(2), dim3(128), 512, nullptr, x.get(), y.get());
  const std::vector<float> right = y.values();
  for (int i = 0; i < 128; ++i) EXPECT_EQ(right[static_cast<size_t>(i)], static_cast<float>(128 - i));
  launch(reverse_blocks<false>, dim3(2), dim3(128), 512, nullptr, x.get(), y.get());
  int unknown = 0;
  for (const float v : y.values()) unknown += v != v;
  EXPECT_EQ(unknown, 128) << "who runs first reads what the other half has not written";
}

__global__ void keeps_shared_from_before(float* y) {
  __shared__ float left[4];
  y[blockIdx.x] = left[0];
  left[0] = 1.0f;
}

TEST_F(EmulatedCuda, StaticSharedMemoryBeginsAsNaNInEachBlock) {
  const OnDevice<float> y(std::vector<float>(3));
  launch(keeps_shared_from_before, dim3(3), dim3(1), 0, nullptr, y.get());
  for (const float v : y.values()) EXPECT_TRUE(v != v);
}

__global__ void half_of_a_warp_shuffles(float* y) {
  float v = 1.0f;
  if (threadIdx.x < 16) {
    v = __shfl_sync(0xffffffffu, v, 0);
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = v;
}

TEST_F(EmulatedCuda, ADeadlockIsToldNotHungUpon) {
  const OnDevice<float> y(std::vector<float>(32));
  try {
    launch(half_of_a_warp_shuffles, dim3(1), dim3(32), 0, nullptr, y.get());
    FAIL() << "no fault";
  } catch (const Fault& fault) {
    const std::string text = fault.what();
    EXPECT_NE(text.find("half_of_a_warp_shuffles"), std::string::npos) << text;
    EXPECT_NE(text.find("16 threads at __shfl_sync with mask ffffffff"), std::string::npos) << text;
    EXPECT_NE(text.find("16 threads at __syncthreads"), std::string::npos) << text;
  }
  const OnDevice<float> x(counted(128)), z(std::vector<float>(1));
  launch(sum_blocks, dim3(1), dim3(128), 0, nullptr, x.get(), z.get(), 128);
  EXPECT_EQ(z.values()[0], 8256.0f) << "after a fault kernels run as before";
}

__global__ void write_at(float* y, int64_t i) { y[i] = 1.0f; }

TEST_F(EmulatedCuda, AccessesThatADeviceWouldNotSurviveEndTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const OnDevice<float> y(std::vector<float>(1024));
  EXPECT_DEATH(y.get()[3] = 1.0f, "host code touched device memory: byte 12 of an allocation of 4096 bytes");
  EXPECT_DEATH(launch(write_at, dim3(1), dim3(1), 0, nullptr, y.get(), int64_t{1024}),
               "kernel .*write_at.*thread .0,0,0. touched byte 4096 of an allocation of 4096 bytes");
  float* gone = nullptr;
  check(cudaMalloc(&gone, 64), "cudaMalloc");
  check(cudaFree(gone), "cudaFree");
  EXPECT_THROW(launch(write_at, dim3(1), dim3(1), 0, nullptr, gone, int64_t{0}), Fault) << "freed";
}

TEST_F(EmulatedCuda, HostPointersAreRefusedByKernelsAndCopiesTellTheirDirection) {
  std::vector<float> host(4);
  EXPECT_THROW(launch(write_at, dim3(1), dim3(1), 0, nullptr, host.data(), int64_t{0}), Fault);
  const OnDevice<float> y(host);
  EXPECT_EQ(cudaMemcpy(y.get(), host.data(), 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_THROW(cudaMemcpy(y.get(), host.data(), 20, cudaMemcpyHostToDevice), Fault);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(EmulatedCuda, LaunchesBeyondTheDeviceAreRefused) {
  const OnDevice<float> y(std::vector<float>(4));
  EXPECT_THROW(launch(write_at, dim3(1), dim3(1025), 0, nullptr, y.get(), int64_t{0}), std::runtime_error);
  EXPECT_THROW(launch(write_at, dim3(1, 65536), dim3(1), 0, nullptr, y.get(), int64_t{0}), std::runtime_error);
  EXPECT_THROW(launch(write_at, dim3(1), dim3(1), 164 << 10, nullptr, y.get(), int64_t{0}), std::runtime_error);
  EXPECT_NO_THROW(launch(write_at, dim3(1), dim3(1), 163 << 10, nullptr, y.get(), int64_t{0}));
  void* much = nullptr;
  EXPECT_EQ(cudaMalloc(&much, 5ull << 30), cudaErrorMemoryAllocation);
  cudaGetLastError();
}

__global__ void twice(const float* x, float* y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }

struct Streams {
  cudaStream_t first = nullptr, second = nullptr;
  cudaEvent_t event = nullptr, back = nullptr;
  Streams() {
    check(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), "stream");
    check(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), "stream");
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    check(cudaEventCreateWithFlags(&back, cudaEventDisableTiming), "event");
  }
};

TEST_F(EmulatedCuda, LateStreamsShowAMissingWait) {
  for (const bool waits : {true, false}) {
    emulated_cuda::switches().late = false;
    Streams s;
    const OnDevice<float> x(counted(4)), y(std::vector<float>(4)), z(std::vector<float>(4));
    emulated_cuda::switches().late = true;
    launch(twice, dim3(1), dim3(4), 0, s.first, x.get(), y.get());
    check(cudaEventRecord(s.event, s.first), "record");
    if (waits) EXPECT_EQ(cudaEventQuery(s.event), cudaErrorNotReady) << "asking runs a piece of the stream";
    if (waits) check(cudaStreamWaitEvent(s.second, s.event), "wait");
    launch(twice, dim3(1), dim3(4), 0, s.second, y.get(), z.get());
    check(cudaStreamSynchronize(s.second), "synchronize");
    EXPECT_EQ(z.values()[2], waits ? 12.0f : 0.0f);
    check(cudaDeviceSynchronize(), "synchronize");
  }
}

TEST_F(EmulatedCuda, GraphsReplayOverSeveralStreams) {
  for (const bool late : {false, true}) {
    for (const bool waits : {true, false}) {
      emulated_cuda::switches().late = false;
      Streams s;
      const OnDevice<float> x(counted(4)), y(std::vector<float>(4)), z(std::vector<float>(4));
      check(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal), "begin");
      launch(twice, dim3(1), dim3(4), 0, s.first, x.get(), y.get());
      check(cudaEventRecord(s.event, s.first), "record");
      check(cudaStreamWaitEvent(s.second, s.event), "wait");
      launch(twice, dim3(1), dim3(4), 0, s.second, y.get(), z.get());
      check(cudaEventRecord(s.back, s.second), "record");
      if (waits) check(cudaStreamWaitEvent(s.first, s.back), "wait");
      cudaGraph_t graph = nullptr;
      const cudaError_t ended = cudaStreamEndCapture(s.first, &graph);
      EXPECT_EQ(ended, waits ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
      if (!waits) continue;
      EXPECT_EQ(z.values()[2], 0.0f) << "captured is not run";
      cudaGraphExec_t executable = nullptr;
      check(cudaGraphInstantiate(&executable, graph), "instantiate");
      emulated_cuda::switches().late = late;
      check(cudaGraphLaunch(executable, s.first), "launch");
      check(cudaStreamSynchronize(s.first), "synchronize");
      EXPECT_EQ(z.values()[2], 12.0f);
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
    }
  }
  cudaGetLastError();
}

TEST_F(EmulatedCuda, WhatCannotBeCapturedSpoilsTheCapture) {
  Streams s;
  for (int what = 0; what < 4; ++what) {
    SCOPED_TRACE(what);
    check(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal), "begin");
    void* p = nullptr;
    if (what == 0) EXPECT_EQ(cudaMalloc(&p, 8), cudaErrorStreamCaptureUnsupported);
    if (what == 1) EXPECT_EQ(cudaStreamSynchronize(s.first), cudaErrorStreamCaptureUnsupported);
    if (what == 2) EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
    if (what == 3) {
      check(cudaEventRecord(s.event, s.first), "record");
      EXPECT_EQ(cudaEventSynchronize(s.event), cudaErrorCapturedEvent);
    }
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(s.first, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  }
  cudaGetLastError();
}

TEST_F(EmulatedCuda, HalfTypesRoundToNearestEven) {
  for (const float v :
       {0.0f, 1.0f, -2.5f, 65504.0f, 65519.0f, 65520.0f, 1e-8f, 6.0e-8f, 3.1e-5f, 1.0009766f, 1.0004883f}) {
    SCOPED_TRACE(v);
    const float back = __half2float(__float2half_rn(v));
    const float step = std::max(std::ldexp(1.0f, std::ilogb(v == 0 ? 1e-8f : v) - 10), 0x1p-24f);
    if (std::fabs(v) >= 65520.0f) {
      EXPECT_TRUE(std::isinf(back));
    } else {
      EXPECT_LE(std::fabs(back - v), step / 2);
    }
  }
  EXPECT_EQ(__half2float(__float2half_rn(1.0004883f)), 1.0f) << "half way, to even";
  EXPECT_EQ(__bfloat162float(__float2bfloat16_rn(1.00390625f)), 1.0f) << "half way, to even";
  EXPECT_EQ(__bfloat162float(__float2bfloat16_rn(1.01171875f)), 1.015625f) << "half way, to even";
  EXPECT_TRUE(std::isnan(__half2float(__float2half_rn(NAN))) && std::isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
}

}  // namespace
}  // namespace capstan::kernels::cuda
