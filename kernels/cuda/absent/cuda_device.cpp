// Stands in for the CUDA device in a build without the CUDA toolkit: there is none, and whoever asks for it is told so.

#include "kernels/cuda/cuda_device.h"

#include <stdexcept>

namespace capstan::kernels {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error(
      "this program was built without CUDA: build it where the CUDA toolkit is (nvcc in PATH or CUDAToolkit_ROOT set, "
      "then run cmake anew), or set train.device = \"cpu\"");
}

}  // namespace

std::unique_ptr<DeviceRuntime> open_cuda_device(int) { refuse(); }

int cuda_device_count() { return 0; }

std::string cuda_trouble() { return {}; }

std::string cuda_device_identity(int) { return {}; }

Backend cuda_backend(DeviceRuntime&, const CudaOptions&) { refuse(); }

}  // namespace capstan::kernels
