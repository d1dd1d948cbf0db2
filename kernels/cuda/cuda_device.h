#pragma once
// The CUDA device of a rank behind kernels/device.h, and its table of kernels. Opening says in words what is missing: a
// driver, a new enough driver, a device, one of that number, a device new enough. Where the program was built without
// the toolkit, absent/ takes the place of all this and opening says so. Streams opened beside the main one carry
// communication and have the higher priority; captures are of the calling thread only.

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/graph_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/device.h"

namespace capstan::kernels {

/// Whose number it is: a rank's place on its machine modulo device_count(), for the caller to reckon.
std::unique_ptr<DeviceRuntime> open_cuda_device(int index);

/// 0 where there is no toolkit, driver or device.
int cuda_device_count();

/// Why no device can be used though a driver is there: it is too old, or does not start. Empty where there is no driver
/// and where nothing is wrong.
std::string cuda_trouble();

/// Tells a device, or a slice of one that is shared out, from all others of its machine. Empty where it is not there.
std::string cuda_device_identity(int index);

struct CudaOptions {
  cuda::ProductOptions products;
  cuda::AttentionOptions attention;
};

/// The device outlives the table.
Backend cuda_backend(DeviceRuntime& device, const CudaOptions& options = {});

}  // namespace capstan::kernels
