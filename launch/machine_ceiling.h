#pragma once
// What this rank's processors can do at best, measured in the same process: the rate of a large matrix product through
// the backend's own path. MFU on a CPU is the share of this, since no data sheet knows the clock of a rented core.

#include "kernels/backend.h"
#include "kernels/device.h"

namespace capstan {

/// FLOP/s of a square product of side `side` with the current number of OpenMP threads, or on the device that runs this
/// backend; best of `rounds`.
double measure_product_rate(const kernels::Backend& backend, DType dtype, int64_t side, int rounds,
                            kernels::DeviceRuntime* device = nullptr);

}  // namespace capstan
