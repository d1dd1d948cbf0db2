#pragma once
// What doctor says of GPUs: from what the driver shows and what this build brings, without waking a device.

#include <vector>

#include "kernels/cuda/cuda_build.h"
#include "launch/doctor_finding.h"
#include "launch/doctor_libraries.h"

namespace capstan {

std::vector<Finding> gpu_findings(const GpuReport& report, const kernels::CudaBuild& build);

}  // namespace capstan
