#pragma once
// What NVIDIA states its devices can do at most with dense products, by the device's name. A device of unknown type has
// no peak: MFU then says that it does not know it.

#include <string_view>

#include "kernels/device.h"

namespace capstan::kernels::cuda {

struct DevicePeaks {
  double bf16 = 0.0, tf32 = 0.0, f32 = 0.0;  ///< FLOP/s
};

/// name: as the driver tells it, "NVIDIA H100 80GB HBM3".
DevicePeaks device_peaks(std::string_view name);

}  // namespace capstan::kernels::cuda
