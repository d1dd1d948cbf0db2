// Device memory is a range of addresses that nobody may touch unless a DeviceAccess lives. Allocations end at a page
// that stays closed; freed addresses stay closed for ever.

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "cuda_runtime_api.h"
#include "emulated_cuda.h"

namespace emulated_cuda {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kRange = 1ull << 40;
constexpr size_t kAlignment = 256;     // of cudaMalloc
constexpr size_t kHugePage = 2 << 20;  // opened and closed as one: a large allocation begins and ends at one

struct Allocation {
  size_t bytes;   // as asked for
  size_t mapped;  // whole pages
  char* pages;
  int device;
};

struct Memory {
  std::mutex mutex;
  char* base = nullptr;
  size_t used = 0;
  size_t allocated = 0;
  int open = 0;  // DeviceAccess that live
  std::map<const char*, Allocation> live, freed;
  std::map<const char*, size_t> pinned;
};

Memory& memory() {
  static Memory& all = *new Memory;  // outlives static destructors that free device memory
  return all;
}

const std::pair<const char* const, Allocation>* holding(const std::map<const char*, Allocation>& in, const char* at) {
  const auto next = in.upper_bound(at);
  if (next == in.begin()) return nullptr;
  const auto found = std::prev(next);
  return at < found->second.pages + found->second.mapped + kPage ? &*found : nullptr;
}

struct sigaction before;

/// Says who touched what; no lock is taken: the process ends here.
void explain(int signal, siginfo_t* info, void*) {
  const char* at = static_cast<const char*>(info->si_addr);
  Memory& all = memory();
  const std::string thread = running_thread();
  char text[512] = "";
  if (all.base != nullptr && at >= all.base && at < all.base + kRange) {
    const char* who = thread.empty() ? "host code" : thread.c_str();
    if (const auto* found = holding(all.live, at)) {
      std::snprintf(text, sizeof text,
                    thread.empty() ? "emulated CUDA: %s touched device memory: byte %td of an allocation of %zu bytes; "
                                     "only kernels, copies and library calls on a stream may\n"
                                   : "emulated CUDA: %s touched byte %td of an allocation of %zu bytes\n",
                    who, at - found->first, found->second.bytes);
    } else if (const auto* gone = holding(all.freed, at)) {
      std::snprintf(text, sizeof text, "emulated CUDA: %s touched byte %td of freed device memory of %zu bytes\n", who,
                    at - gone->first, gone->second.bytes);
    } else {
      std::snprintf(text, sizeof text, "emulated CUDA: %s touched device addresses that were never allocated\n", who);
    }
  } else if (!thread.empty()) {
    std::snprintf(text, sizeof text, "emulated CUDA: %s touched address %p, which is no memory\n", thread.c_str(),
                  info->si_addr);
  }
  if (*text != '\0') {
    (void)!write(STDERR_FILENO, text, std::strlen(text));
    void* frames[48];
    backtrace_symbols_fd(frames, backtrace(frames, 48), STDERR_FILENO);
  }
  sigaction(signal, &before, nullptr);  // the same touch again ends the process, or is told to who was there before
}

void watch_faults() {
  struct sigaction action = {};
  action.sa_sigaction = explain;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
}

void protect(const Allocation& allocation, bool open) {
  if (mprotect(allocation.pages, allocation.mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
    throw Fault("emulated CUDA: mprotect failed");
  }
}

thread_local int current_device = 0;

}  // namespace

Switches& switches() {
  static Switches all;
  return all;
}

DeviceAccess::DeviceAccess() {
  Memory& all = memory();
  const std::scoped_lock lock(all.mutex);
  if (all.open++ > 0) return;
  for (const auto& [address, allocation] : all.live) protect(allocation, true);
}

DeviceAccess::~DeviceAccess() {
  Memory& all = memory();
  const std::scoped_lock lock(all.mutex);
  if (--all.open > 0) return;
  for (const auto& [address, allocation] : all.live) protect(allocation, false);
}

Where where_is(const void* address, size_t bytes) {
  Memory& all = memory();
  const std::scoped_lock lock(all.mutex);
  const char* at = static_cast<const char*>(address);
  if (all.base != nullptr && at >= all.base && at < all.base + kRange) {
    const auto* found = holding(all.live, at);
    if (found == nullptr) throw Fault("a range begins outside every live allocation of device memory");
    const auto offset = static_cast<size_t>(at - found->first);
    if (offset > found->second.bytes || bytes > found->second.bytes - offset) {
      throw Fault(std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
                  " leave an allocation of device memory of " + std::to_string(found->second.bytes) + " bytes");
    }
    return Where::device;
  }
  const auto next = all.pinned.upper_bound(at);
  if (next == all.pinned.begin()) return Where::host;
  const auto found = std::prev(next);
  if (at >= found->first + found->second) return Where::host;
  if (at + bytes > found->first + found->second) throw Fault("a range leaves its pinned memory");
  return Where::pinned;
}

void check_kernel_pointer(const void* address, const char* kernel, size_t index) {
  if (address == nullptr || where_is(address, 0) != Where::host) return;
  throw Fault("argument " + std::to_string(index) + " of kernel " + name_of_function(kernel) +
              " points into host memory that is not pinned");
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

cudaError_t cudaMalloc(void** address, size_t bytes) {
  if (address == nullptr) return status(cudaErrorInvalidValue);
  *address = nullptr;
  if (capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  Memory& all = memory();
  const std::scoped_lock lock(all.mutex);
  if (all.base == nullptr) {
    void* range = mmap(nullptr, kRange + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return status(cudaErrorMemoryAllocation);
    all.base = static_cast<char*>(range) + (kHugePage - reinterpret_cast<uintptr_t>(range) % kHugePage);
    all.used = kPage;
    watch_faults();
  }
  const size_t room = switches().device_bytes;
  if (bytes > room || all.allocated > room - bytes || all.used + bytes + 3 * kPage > kRange) {
    return status(cudaErrorMemoryAllocation);
  }
  const size_t inside = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t unit = inside >= kHugePage ? kHugePage : kPage;
  const size_t mapped = (inside + unit - 1) / unit * unit;
  all.used = (all.used + unit - 1) / unit * unit;
  if (all.used + mapped + 2 * kPage > kRange) return status(cudaErrorMemoryAllocation);
  const Allocation made = {bytes, mapped, all.base + all.used, current_device};
  protect(made, true);
  if (unit == kHugePage) madvise(made.pages, mapped, MADV_HUGEPAGE);
  std::memset(made.pages, 0xff, mapped);
  if (all.open == 0) protect(made, false);
  all.used += mapped + kPage;
  all.allocated += bytes;
  char* start = made.pages + mapped - inside;  // an overrun meets the closed page
  all.live.emplace(start, made);
  *address = start;
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  if (address == nullptr) return cudaSuccess;
  if (const cudaError_t waited = cudaDeviceSynchronize(); waited != cudaSuccess) return waited;
  Memory& all = memory();
  const std::scoped_lock lock(all.mutex);
  const auto found = all.live.find(static_cast<const char*>(address));
  if (found == all.live.end()) return status(cudaErrorInvalidValue);
  // Mapped anew: the kernel then joins it with its closed neighbours, of which a process may have 65530 only.
  if (mmap(found->second.pages, found->second.mapped, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    throw Fault("emulated CUDA: mmap failed");
  }
  all.allocated -= found->second.bytes;
  all.freed.insert(all.live.extract(found));
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  if (address == nullptr) return status(cudaErrorInvalidValue);
  *address = nullptr;
  if (capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  void* made = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  if (made == nullptr) return status(cudaErrorMemoryAllocation);
  std::memset(made, 0xff, bytes);
  const std::scoped_lock lock(memory().mutex);
  memory().pinned[static_cast<const char*>(made)] = bytes;
  *address = made;
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** address, size_t bytes, unsigned flags) {
  return cudaHostAlloc(address, bytes, flags);
}

cudaError_t cudaHostUnregister(void* address) {
  const std::scoped_lock lock(memory().mutex);
  return status(memory().pinned.erase(static_cast<const char*>(address)) ? cudaSuccess
                                                                         : cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned) {
  if (address == nullptr || bytes == 0) return status(cudaErrorInvalidValue);
  if (capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  const std::scoped_lock lock(memory().mutex);
  const bool fresh = memory().pinned.emplace(static_cast<const char*>(address), bytes).second;
  return status(fresh ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered);
}
cudaError_t cudaFreeHost(void* address) {
  if (capture_forbids()) return status(cudaErrorStreamCaptureUnsupported);
  if (address == nullptr) return cudaSuccess;
  if (const cudaError_t waited = cudaDeviceSynchronize(); waited != cudaSuccess) return waited;
  if (cudaHostUnregister(address) != cudaSuccess) return status(cudaErrorInvalidValue);
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::scoped_lock lock(memory().mutex);
  *total = switches().device_bytes;
  *free = *total - std::min(*total, memory().allocated);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  const Where where = where_is(address, 0);
  *attributes = {};
  attributes->device = current_device;
  attributes->type = where == Where::device   ? cudaMemoryTypeDevice
                     : where == Where::pinned ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
  if (where != Where::host) attributes->devicePointer = const_cast<void*>(address);
  if (where != Where::device) attributes->hostPointer = const_cast<void*>(address);
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) { return *version = switches().driver_version, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (switches().start != cudaSuccess) return status(switches().start);
  *count = switches().devices;
  return status(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= switches().devices) return status(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) { return *device = current_device, cudaSuccess; }

namespace {
size_t most_shared_bytes() {
  return (switches().capability == 80 ? 163 : switches().capability == 90 ? 227 : 99) << 10;
}
}  // namespace

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device < 0 || device >= switches().devices) return status(cudaErrorInvalidDevice);
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated device");
  p->uuid.bytes[0] = static_cast<char>(device + 1);
  p->totalGlobalMem = switches().device_bytes;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = most_shared_bytes();
  p->sharedMemPerMultiprocessor = most_shared_bytes() + 1024;
  p->regsPerBlock = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->major = switches().capability / 10;
  p->minor = switches().capability % 10;
  p->multiProcessorCount = switches().multiprocessors;
  p->memoryBusWidth = 5120;
  p->l2CacheSize = 40 << 20;
  p->pciBusID = device;
  p->unifiedAddressing = 1;
  p->asyncEngineCount = 2;
  p->concurrentKernels = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (const cudaError_t wrong = cudaGetDeviceProperties(&p, device); wrong != cudaSuccess) return wrong;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      return *value = p.maxThreadsPerBlock, cudaSuccess;
    case cudaDevAttrClockRate:
      return *value = 1410000, cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      return *value = p.multiProcessorCount, cudaSuccess;
    case cudaDevAttrMemoryClockRate:
      return *value = 1215000, cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth:
      return *value = p.memoryBusWidth, cudaSuccess;
    case cudaDevAttrL2CacheSize:
      return *value = p.l2CacheSize, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return *value = static_cast<int>(p.sharedMemPerMultiprocessor), cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      return *value = p.major, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      return *value = p.minor, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = static_cast<int>(p.sharedMemPerBlockOptin), cudaSuccess;
  }
  return status(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  std::snprintf(id, static_cast<size_t>(length), "0000:%02x:00.0", static_cast<unsigned>(device));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 1, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }
