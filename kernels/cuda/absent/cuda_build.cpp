#include "kernels/cuda/cuda_build.h"

namespace capstan::kernels {

CudaBuild cuda_build() { return {}; }

}  // namespace capstan::kernels
