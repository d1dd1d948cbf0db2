#include "kernels/cuda/cudnn/cudnn_library.h"

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <nvrtc.h>

#include <type_traits>

#include "kernels/cuda/cuda_library.h"

// Hidden, so that libcudnn's own calls of these names are not caught.
#define CAPSTAN_PASSED_ON extern "C" __attribute__((visibility("hidden")))

namespace capstan::kernels::cuda {
namespace {

/// Loaded once, never changed and never unloaded: kernels of it may be in graphs until the process ends. Its engines
/// that are compiled at run time ask for NVRTC by name, and only the loader, which does not look where toolkits are:
/// what is loaded before is found.
struct Cudnn {
  CudaLibrary builtins{"libnvrtc-builtins.so." + std::to_string(CUDART_VERSION / 1000) + "." +
                       std::to_string(CUDART_VERSION % 1000 / 10)};
  CudaLibrary compiler{"libnvrtc.so." + std::to_string(CUDART_VERSION / 1000)};
  CudaLibrary library{"libcudnn.so.9"};
  bool usable = false;
  std::string why;
  decltype(&::cudnnGetVersion) get_version = nullptr;
  decltype(&::cudnnGetErrorString) get_error_string = nullptr;
  decltype(&::cudnnGetLastErrorString) get_last_error_string = nullptr;
  decltype(&::cudnnCreate) create = nullptr;
  decltype(&::cudnnDestroy) destroy = nullptr;
  decltype(&::cudnnSetStream) set_stream = nullptr;
  decltype(&::cudnnGetStream) get_stream = nullptr;
  decltype(&::cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&::cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&::cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&::cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&::cudnnBackendFinalize) finalize = nullptr;
  decltype(&::cudnnBackendExecute) execute = nullptr;

  Cudnn() {
    if (!library.loaded()) {
      why = library.why();
      return;
    }
    usable = load(get_version, "cudnnGetVersion") && load(get_error_string, "cudnnGetErrorString") &&
             load(get_last_error_string, "cudnnGetLastErrorString") && load(create, "cudnnCreate") &&
             load(destroy, "cudnnDestroy") && load(set_stream, "cudnnSetStream") &&
             load(get_stream, "cudnnGetStream") && load(create_descriptor, "cudnnBackendCreateDescriptor") &&
             load(destroy_descriptor, "cudnnBackendDestroyDescriptor") &&
             load(set_attribute, "cudnnBackendSetAttribute") && load(get_attribute, "cudnnBackendGetAttribute") &&
             load(finalize, "cudnnBackendFinalize") && load(execute, "cudnnBackendExecute");
  }

  template <typename Function>
  bool load(Function& function, const char* name) {
    function = library.find<std::remove_pointer_t<Function>>(name);
    if (function == nullptr) why = std::string("libcudnn.so.9 is too old: it has no ") + name;
    return function != nullptr;
  }
};

const Cudnn& cudnn() {
  static const Cudnn loaded;
  return loaded;
}

}  // namespace

bool load_cudnn(std::string& why) {
  why = cudnn().why;
  return cudnn().usable;
}

}  // namespace capstan::kernels::cuda

using capstan::kernels::cuda::cudnn;

CAPSTAN_PASSED_ON size_t cudnnGetVersion() { return cudnn().get_version(); }
CAPSTAN_PASSED_ON const char* cudnnGetErrorString(cudnnStatus_t status) { return cudnn().get_error_string(status); }
CAPSTAN_PASSED_ON void cudnnGetLastErrorString(char* message, size_t size) {
  cudnn().get_last_error_string(message, size);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return cudnn().create(handle); }
CAPSTAN_PASSED_ON cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return cudnn().destroy(handle); }
CAPSTAN_PASSED_ON cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return cudnn().set_stream(handle, stream);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  return cudnn().get_stream(handle, stream);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                             cudnnBackendDescriptor_t* descriptor) {
  return cudnn().create_descriptor(type, descriptor);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return cudnn().destroy_descriptor(descriptor);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                                         cudnnBackendAttributeName_t name,
                                                         cudnnBackendAttributeType_t type, int64_t count,
                                                         const void* elements) {
  return cudnn().set_attribute(descriptor, name, type, count, elements);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                                         cudnnBackendAttributeName_t name,
                                                         cudnnBackendAttributeType_t type, int64_t requested,
                                                         int64_t* count, void* elements) {
  return cudnn().get_attribute(descriptor, name, type, requested, count, elements);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return cudnn().finalize(descriptor);
}
CAPSTAN_PASSED_ON cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                                    cudnnBackendDescriptor_t variant_pack) {
  return cudnn().execute(handle, plan, variant_pack);
}

// The frontend also holds an engine of its own for another op, which compiles at run time. It is never asked for.
CAPSTAN_PASSED_ON nvrtcResult nvrtcCreateProgram(nvrtcProgram*, const char*, const char*, int, const char* const*,
                                                 const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
CAPSTAN_PASSED_ON nvrtcResult nvrtcDestroyProgram(nvrtcProgram*) { return NVRTC_ERROR_INTERNAL_ERROR; }
CAPSTAN_PASSED_ON nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
CAPSTAN_PASSED_ON nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
CAPSTAN_PASSED_ON nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
CAPSTAN_PASSED_ON nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
CAPSTAN_PASSED_ON nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
