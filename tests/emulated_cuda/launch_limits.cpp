// What a device has for a kernel, and what it refuses to launch.

#include <algorithm>
#include <map>
#include <mutex>
#include <string>

#include "cuda_runtime_api.h"
#include "emulated_cuda.h"

namespace emulated_cuda {
namespace {

std::mutex attribute_mutex;

std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> all;
  return all;
}

int most_shared(const void* kernel) {
  const std::scoped_lock lock(attribute_mutex);
  const auto found = shared_limits().find(kernel);
  return found == shared_limits().end() ? 48 * 1024 : found->second;
}

int device_shared() {
  int bytes = 0;
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  return bytes;
}

uint64_t product(const dim3& d) { return static_cast<uint64_t>(d.x) * d.y * d.z; }

}  // namespace

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 &g = config.gridDim, &b = config.blockDim;
  if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
  if (product(g) == 0 || product(b) == 0 || product(b) > 1024 || b.z > 64) return cudaErrorInvalidConfiguration;
  if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > static_cast<size_t>(most_shared(kernel))) return cudaErrorInvalidValue;
  return cudaSuccess;
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > device_shared()) return status(cudaErrorInvalidValue);
  const std::scoped_lock lock(attribute_mutex);
  shared_limits()[kernel] = value;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 64;
  attributes->maxDynamicSharedSizeBytes = most_shared(kernel);
  return cudaSuccess;
}
cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  static std::mutex mutex;
  static std::map<const void*, std::string> names;
  const std::scoped_lock lock(mutex);
  *name = names.try_emplace(kernel, name_of_function(kernel)).first->second.c_str();
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads, size_t shared_bytes) {
  const int by_threads = threads > 0 ? 2048 / threads : 0;
  const int by_shared = device_shared() / static_cast<int>(std::max<size_t>(shared_bytes, 1024));
  *blocks = std::min({by_threads, by_shared, 32});
  return cudaSuccess;
}
