#pragma once
// How a device says how far it has come: one thread writes a number into pinned memory of the host. It costs a launch,
// so it stands behind a run of kernels, not behind each.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels::cuda {

void write_number(uint64_t* pinned, uint64_t number, Stream stream);

}  // namespace capstan::kernels::cuda
