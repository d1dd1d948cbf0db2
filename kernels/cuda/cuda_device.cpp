#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime_api.h>
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/device_peaks.h"
#include "kernels/cuda/nvml.h"
#include "kernels/cuda/progress.h"

namespace capstan::kernels {
namespace {

using cuda::check;

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t native(Event event) { return reinterpret_cast<cudaEvent_t>(event); }

std::string version_text(int version) {  // 12040 is 12.4
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string gibibytes(size_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (size_t{1} << 30));
  return text;
}

struct Versions {
  int driver = 0, runtime = 0;
};

/// Throws what a user can act on when there is no driver or an old one.
Versions checked_versions() {
  Versions v;
  check(cudaRuntimeGetVersion(&v.runtime), "cudaRuntimeGetVersion");
  const cudaError_t status = cudaDriverGetVersion(&v.driver);
  if (status != cudaSuccess || v.driver == 0) {
    cudaGetLastError();
    throw std::runtime_error(
        "no NVIDIA driver on this machine (libcuda.so.1 was not found or does not answer): install the driver, or set "
        "train.device = \"cpu\"");
  }
  if (v.driver / 1000 < v.runtime / 1000)
    throw std::runtime_error("the NVIDIA driver of this machine is too old: it serves CUDA up to " +
                             version_text(v.driver) + ", this build needs " + std::to_string(v.runtime / 1000) +
                             ".0; update the driver, or build with a toolkit of CUDA " +
                             std::to_string(v.driver / 1000));
  return v;
}

/// What to do where the driver is there and does not start.
const char* advice_for_start(cudaError_t status) {
  switch (status) {
    case cudaErrorSystemNotReady:
      return "on a machine whose GPUs are joined by NVSwitch the fabric manager has to run, in the driver's very "
             "version: "
             "systemctl status nvidia-fabricmanager";
    case cudaErrorSystemDriverMismatch:
      return "the driver's library is of another version than its kernel module: reboot, or see which libcuda.so.1 a "
             "container or LD_LIBRARY_PATH brings";
    case cudaErrorCompatNotSupportedOnDevice:
      return "libcuda.so.1 is that of a compatibility package, which this GPU does not take: take it off "
             "LD_LIBRARY_PATH and update the driver";
    case cudaErrorInitializationError:
    case cudaErrorUnknown:
      return "see whether nvidia-smi answers, and dmesg for lines with Xid";
    default:
      return cuda::advice_for(status);
  }
}

[[noreturn]] void throw_no_start(cudaError_t status) {
  cudaGetLastError();
  throw std::runtime_error(cuda::describe_failure("cudaGetDeviceCount", cudaGetErrorName(status),
                                                  cudaGetErrorString(status), advice_for_start(status)));
}

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(cudaGraph_t graph, int device) : device_(device) {
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
  }
  ~CudaGraph() override {
    cudaSetDevice(device_);
    cudaGraphExecDestroy(executable_);
  }
  void launch(Stream stream) override { check(cudaGraphLaunch(executable_, native(stream)), "cudaGraphLaunch"); }

 private:
  int device_;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaDevice final : public DeviceRuntime {
 public:
  explicit CudaDevice(int index) : index_(index) {
    versions_ = checked_versions();
    check_index();
    check(cudaGetDeviceProperties(&properties_, index), "cudaGetDeviceProperties");
    if (properties_.major < 8)
      throw std::runtime_error("CUDA device " + std::to_string(index) + ", " + properties_.name +
                               ", has compute capability " + std::to_string(properties_.major) + "." +
                               std::to_string(properties_.minor) + "; 8.0 (A100) or newer is needed");
    check(cudaSetDevice(index), "cudaSetDevice (a device in exclusive mode may be another process' already)");
    // What communicates is short and waited for by others: it goes first.
    check(cudaDeviceGetStreamPriorityRange(&lowest_, &highest_), "cudaDeviceGetStreamPriorityRange");
    main_ = make_stream(lowest_);
    char bus[32] = {};
    if (cudaDeviceGetPCIBusId(bus, sizeof bus, index) == cudaSuccess) monitor_ = cuda::open_device_monitor(bus);
  }
  ~CudaDevice() override {
    cudaSetDevice(index_);
    cudaDeviceSynchronize();
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
    for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
    cudaGetLastError();
  }

  DeviceFacts facts() const override {
    const Current current(index_);
    DeviceFacts facts;
    facts.index = index_;
    facts.name = properties_.name;
    facts.major = properties_.major, facts.minor = properties_.minor;
    facts.multiprocessors = properties_.multiProcessorCount;
    check(cudaMemGetInfo(&facts.free_bytes, &facts.memory_bytes), "cudaMemGetInfo");
    facts.driver = version_text(versions_.driver), facts.runtime = version_text(versions_.runtime);
    const cuda::DevicePeaks peaks = cuda::device_peaks(facts.name);
    facts.peak_bf16 = peaks.bf16, facts.peak_tf32 = peaks.tf32, facts.peak_f32 = peaks.f32;
    return facts;
  }
  DeviceState state() const override {
    const Current current(index_);
    DeviceState state{NAN, NAN, NAN, NAN, {}};
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) state.memory_used_bytes = static_cast<double>(total - free);
    if (monitor_) monitor_->fill(state);
    return state;
  }

  void* allocate(size_t bytes) override {
    void* memory = nullptr;
    refuse_if_full(cudaMalloc(&memory, bytes), bytes);
    const cudaError_t status = cudaMemsetAsync(memory, 0, bytes, main_);
    if (status != cudaSuccess) cudaFree(memory);
    check(status, "cudaMemsetAsync (zeroing new memory)");
    finish(Stream(main_));
    return memory;
  }
  void release(void* memory) noexcept override {
    cudaSetDevice(index_);
    cudaFree(memory);
  }
  void* allocate_pinned(size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMallocHost(&memory, bytes);
    if (status != cudaSuccess) {
      cudaGetLastError();
      throw std::runtime_error("cudaMallocHost: " + gibibytes(bytes) + " of pinned host memory were refused (" +
                               cudaGetErrorString(status) +
                               "): the host has too little memory, or `ulimit -l` is too small");
    }
    std::memset(memory, 0, bytes);
    return memory;
  }
  void release_pinned(void* memory) noexcept override {
    cudaSetDevice(index_);
    cudaFreeHost(memory);
  }

  void copy_in(void* device, const void* host, size_t bytes, Stream stream) override {
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, native(stream)), "cudaMemcpyAsync (to device)");
  }
  void copy_out(void* host, const void* device, size_t bytes, Stream stream) override {
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, native(stream)), "cudaMemcpyAsync (to host)");
  }

  void write_number(uint64_t* pinned, uint64_t number, Stream stream) override {
    cuda::write_number(pinned, number, stream);
  }

  Stream main_stream() const override { return main_; }
  Stream open_stream() override { return make_stream(highest_); }

  Event make_event() override {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    events_.push_back(event);
    return reinterpret_cast<Event>(event);
  }
  void record(Event event, Stream stream) override {
    check(cudaEventRecord(native(event), native(stream)), "cudaEventRecord");
  }
  void wait(Stream stream, Event event) override {
    check(cudaStreamWaitEvent(native(stream), native(event), 0), "cudaStreamWaitEvent");
  }
  bool is_past(Event event) const override {
    const Current current(index_);
    const cudaError_t status = cudaEventQuery(native(event));
    if (status == cudaErrorNotReady) {
      cudaGetLastError();  // not a failure, and not to be seen by the next call
      return false;
    }
    check(status, "cudaEventQuery");
    return true;
  }
  void finish(Event event) const override {
    const Current current(index_);
    check(cudaEventSynchronize(native(event)), "cudaEventSynchronize");
  }
  void finish(Stream stream) const override {
    const Current current(index_);
    check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
  }
  double seconds_between(Event first, Event last) const override {
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, native(first), native(last)), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

  void begin_capture(Stream stream) override {
    check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }
  std::unique_ptr<DeviceGraph> end_capture(Stream stream) override {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(native(stream), &graph), "cudaStreamEndCapture");
    return std::make_unique<CudaGraph>(graph, index_);
  }
  void drop_capture(Stream stream) noexcept override {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(native(stream), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
  }

#if __has_include(<nvtx3/nvToolsExt.h>)
  void push_range(const char* name) override { nvtxRangePushA(name); }
  void pop_range() override { nvtxRangePop(); }
#else
  void push_range(const char*) override {}
  void pop_range() override {}
#endif

 private:
  /// A thread's current device is 0 until it says otherwise, and asking there would wake device 0.
  struct Current {
    explicit Current(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }
  };

  void check_index() const {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
      cudaGetLastError();
      throw std::runtime_error(
          "the driver sees no CUDA device: see nvidia-smi, CUDA_VISIBLE_DEVICES and the job's --gpus; or set "
          "train.device = \"cpu\"");
    }
    if (status != cudaSuccess) throw_no_start(status);
    if (index_ < 0 || index_ >= count)
      throw std::runtime_error("CUDA device " + std::to_string(index_) + " was asked for, and there are " +
                               std::to_string(count) + " (numbered from 0): see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }

  cudaStream_t make_stream(int priority) {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority), "cudaStreamCreateWithPriority");
    streams_.push_back(stream);
    return stream;
  }

  void refuse_if_full(cudaError_t status, size_t bytes) const {
    if (status != cudaErrorMemoryAllocation) return check(status, "cudaMalloc");
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw OutOfDeviceMemory("CUDA device " + std::to_string(index_) + " has too little memory: " + gibibytes(bytes) +
                            " were asked for, " + gibibytes(free) + " of " + gibibytes(total) + " are free; " +
                            cuda::advice_for(status));
  }

  int index_;
  int lowest_ = 0, highest_ = 0;
  Versions versions_;
  cudaDeviceProp properties_ = {};
  cudaStream_t main_ = nullptr;
  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> events_;
  std::unique_ptr<cuda::DeviceMonitor> monitor_;
};

}  // namespace

std::unique_ptr<DeviceRuntime> open_cuda_device(int index) { return std::make_unique<CudaDevice>(index); }

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::string cuda_trouble() {
  int driver = 0, count = 0;
  const bool there = cudaDriverGetVersion(&driver) == cudaSuccess && driver != 0;
  cudaGetLastError();
  if (!there) return {};
  try {
    checked_versions();
    const cudaError_t status = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (status != cudaSuccess && status != cudaErrorNoDevice) throw_no_start(status);
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

std::string cuda_device_identity(int index) {
  cudaDeviceProp properties = {};
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  std::string text;
  for (const char byte : properties.uuid.bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    text += digits;
  }
  return text;
}

}  // namespace capstan::kernels
