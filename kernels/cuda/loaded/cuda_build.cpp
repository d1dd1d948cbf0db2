#include "kernels/cuda/cuda_build.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_library.h"

namespace capstan::kernels {
namespace {

/// 130100 is 13.1.0, as these libraries count.
std::string version_text(size_t code) {
  return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
}

CudaBuild::Library missing(const std::string& name, const std::string& why, bool needed) {
  return {name, "", why.empty() ? "it is too old to tell its version" : why, needed};
}

CudaBuild::Library by_size(const std::string& name, const std::string& file, const char* function, bool needed) {
  const cuda::CudaLibrary library(file);
  auto* version = library.find<size_t()>(function);
  return version ? CudaBuild::Library{name, version_text(version()), "", needed} : missing(name, library.why(), needed);
}

CudaBuild::Library nccl() {
  const cuda::CudaLibrary library("libnccl.so.2");
  auto* version = library.find<int(int*)>("ncclGetVersion");
  int code = 0;
  if (version == nullptr || version(&code) != 0) return missing("NCCL", library.why(), false);
  return {"NCCL", version_text(static_cast<size_t>(code)), "", false};
}

}  // namespace

CudaBuild cuda_build() {
  CudaBuild build;
  build.toolkit = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  build.libraries = {
      by_size("cuBLASLt", "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR), "cublasLtGetVersion", true),
      by_size("cuDNN", "libcudnn.so.9", "cudnnGetVersion", false), nccl()};
  return build;
}

}  // namespace capstan::kernels
