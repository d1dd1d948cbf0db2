#pragma once
// What tests may ask of the emulation beyond CUDA's own calls, and what its parts ask of each other. The switches are
// read at each launch. A mistake that a device would answer with garbage or a hang throws Fault out of the call that
// ran the kernel; a touch of memory outside every allocation, or of device memory by the host, ends the process with a
// message that says who touched what.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "cuda_runtime_api.h"

namespace emulated_cuda {

/// In which order the blocks of a grid and the threads of a block run between barriers.
enum class Order { forward, reversed, shuffled };

struct Switches {
  Order order = Order::shuffled;
  uint64_t seed = 1;                 ///< of the shuffles
  bool late = false;                 ///< streams run only when somebody waits for them, graphs as late as nodes allow
  size_t device_bytes = 4ull << 30;  ///< memory of a device
  int devices = 1;
  int multiprocessors = 2;        ///< few, so that grids sized by them stay small
  int capability = 80;            ///< sm_80: bounds shared memory
  bool trains_products = true;    ///< cuBLASLt has algorithms for epilogues with an aux matrix or a bias gradient
  uint64_t kernels_run = 0;       ///< counts up
  uint64_t library_calls = 0;     ///< counts up
  uint64_t trained_products = 0;  ///< counts up: products with such an epilogue
  int driver_version = CUDART_VERSION;
  cudaError_t start = cudaSuccess;  ///< what a driver that does not start answers
};
Switches& switches();

class Fault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// While one lives, device memory may be touched by this process: held by kernels, copies and library calls.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

enum class Where { host, pinned, device };
/// Where `bytes` at `address` lie; throws Fault for a range that leaves its allocation or was freed.
Where where_is(const void* address, size_t bytes);

/// Puts work at the end of a stream (or into the graph that captures it). It is run as a kernel would be.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);

/// False for a stream that was destroyed, or never made.
bool is_live(cudaStream_t stream);
bool is_capturing(cudaStream_t stream);

/// Remembers the status for cudaGetLastError and returns it.
cudaError_t status(cudaError_t value);

/// True and the capture is spoilt when this thread may not allocate or wait now.
bool capture_forbids();

/// Runs all blocks of a grid now. `body` is the kernel with its arguments, called once for each thread.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::string& name, const std::function<void()>& body);

/// What cudaLaunchKernelEx refuses: extents and shared memory beyond the device's.
cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel);

/// "namespace::kernel<float>(...)" as the symbol table has it, or its address.
std::string name_of_function(const void* function);

/// The static __shared__ variables of this thread: filled with NaN before each block.
void poison_static_shared();

/// For the message of a fault: the kernel and thread that run on this OS thread, empty when none does.
std::string running_thread();

}  // namespace emulated_cuda
