#pragma once
// The CUDA device and its kernels for tests of whole programs that are linked twice: over the emulation (label cpu),
// and on a device (label cuda), where they say that they skip when there is none. What only the emulation can do
// (another order of blocks, streams as late as they may be, little memory) is asked of Emulation, which does nothing on
// a device.

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/cuda/cuda_device.h"
#ifdef CAPSTAN_EMULATED_CUDA
#include "tests/emulated_cuda/emulated_cuda.h"
#endif

namespace capstan::testing {

/// Products are not timed: two runs would choose other algorithms, which add up in another order.
struct Gpu {
  Gpu() : runtime(kernels::open_cuda_device(0)), backend(kernels::cuda_backend(*runtime, untimed())) {}
  static kernels::CudaOptions untimed() {
    kernels::CudaOptions options;
    options.products.time = false;
#ifdef CAPSTAN_EMULATED_CUDA
    options.products.workspace_bytes = 256 << 10;  // small ones are opened and closed faster
#endif
    return options;
  }
  std::unique_ptr<kernels::DeviceRuntime> runtime;
  kernels::Backend backend;
};

struct Emulation {
#ifdef CAPSTAN_EMULATED_CUDA
  static constexpr bool kHere = true;
  static void reset() { emulated_cuda::switches() = {}; }
  static void reorder(uint64_t seed) { emulated_cuda::switches().seed = seed; }
  static void run_late() { emulated_cuda::switches().late = true; }
  static void leave_memory(size_t bytes) { emulated_cuda::switches().device_bytes = bytes; }
  static uint64_t trained_products() { return emulated_cuda::switches().trained_products; }
#else
  static constexpr bool kHere = false;
  static void reset() {}
  static void reorder(uint64_t) {}
  static void run_late() {}
  static void leave_memory(size_t) {}
  static uint64_t trained_products() { return 0; }
#endif
};

/// Where there is no device every test of the program says that it skipped.
class NeedsDevice final : public ::testing::Environment {
  void SetUp() override {
    try {
      kernels::open_cuda_device(0);
    } catch (const std::runtime_error& error) {
      GTEST_SKIP() << "SKIP: " << error.what();
    }
  }
};
inline const auto* const kNeedsDevice = ::testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace capstan::testing
