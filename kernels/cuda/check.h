#pragma once
// Turns a status of a CUDA library into an exception. The text names the call, the status, what the library says of it
// and what to do; core/ adds which op and which rank. An asynchronous fault of a kernel shows at some later call: the
// text says so where that can be.

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace capstan::kernels::cuda {

/// What to do about an error of the runtime; empty where its own text says all.
inline const char* advice_for(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "the device's memory is full: see what the plan needs with 'capstan inspect', take a smaller microbatch, "
             "recompute more or shard more (zero, tp, pp), or see with nvidia-smi who else uses the device";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "no such device: see nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorInsufficientDriver:
      return "the driver is older than the toolkit of this build: update the driver or build with an older toolkit";
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNoKernelImageForDevice:
      return "this build holds no code for this device: it is built for sm_80, sm_90 and what a driver compiles from "
             "compute_80; add the device to CMAKE_CUDA_ARCHITECTURES";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
      return "a kernel of this or an earlier call failed: CUDA_LAUNCH_BLOCKING=1 shows which, compute-sanitizer where";
    case cudaErrorECCUncorrectable:
      return "the device's memory is damaged: drain the machine";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureUnjoined:
      return "not allowed while a stream is captured into a graph: run with graphs off and report this";
    default:
      return "";
  }
}

/// The text of all such exceptions.
inline std::string describe_failure(const std::string& call, const char* name, const char* text, const char* advice) {
  std::string message = call + ": " + name;
  if (text != nullptr && *text != '\0') message += std::string(" (") + text + ")";
  if (advice != nullptr && *advice != '\0') message += std::string("; ") + advice;
  return message;
}

/// Throws std::runtime_error unless `status` is success. `what` is the call and what it was for.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the status is told here; the next call must not tell it again
  throw std::runtime_error(
      describe_failure(what, cudaGetErrorName(status), cudaGetErrorString(status), advice_for(status)));
}

}  // namespace capstan::kernels::cuda
