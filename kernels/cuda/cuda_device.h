#pragma once
// The CUDA device of a rank behind kernels/device.h, and its table of kernels. Opening says in words what is missing: a
// driver, a new enough driver, a device, one of that number, a device new enough. Where the program was built without
// the toolkit, absent/ takes the place of all this and opening says so. Streams opened beside the main one carry
// communication and have the higher priority; captures are of the calling thread only.

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/graph_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/device.h"

namespace capstan::kernels {

/// Whose number it is: a rank's place on its machine modulo device_count(), for the caller to reckon.
std::unique_ptr<DeviceRuntime> open_cuda_device(int index);

/// 0 where there is no toolkit, driver or device.
int cuda_device_count();

struct CudaOptions {
  cuda::ProductOptions products;
  cuda::AttentionOptions attention;
};

/// The device outlives the table.
Backend cuda_backend(DeviceRuntime& device, const CudaOptions& options = {});

}  // namespace capstan::kernels
