#pragma once
// check() for statuses of cuBLAS; kernels/cuda/check.h tells what its exceptions say.

#include <cublasLt.h>

#include "kernels/cuda/check.h"

namespace capstan::kernels::cuda {

inline const char* advice_for(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED:
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "the library found no device memory for itself: leave more of it free";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "the device cannot compute this dtype";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "a kernel of this or an earlier call failed: CUDA_LAUNCH_BLOCKING=1 shows which";
    default:
      return "";
  }
}

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(
      describe_failure(what, cublasLtGetStatusName(status), cublasLtGetStatusString(status), advice_for(status)));
}

}  // namespace capstan::kernels::cuda
