#pragma once
// Which of several ways to run one product is the fastest on the device at hand. Operands hold numbers of many bits
// (zeros run at higher clocks) and rotate through more memory than the device's cache holds, as in a step.

#include <functional>

#include "kernels/device.h"
#include "kernels/matmul.h"

namespace capstan::kernels::cuda {

/// Bytes of the operands of a product and of its scratch.
struct ProductMemory {
  size_t a = 0, b = 0, bias = 0, c = 0, aux = 0, bias_gradient = 0, scratch = 0;
  size_t operands() const { return a + b + bias + c + aux + bias_gradient; }
};

ProductMemory product_memory(const MatmulShape& shape, size_t scratch_bytes);

struct ProductTiming {
  size_t index = 0;
  double seconds = 0.0;  ///< 0: there was no memory to time with, and the first is taken
};

/// run(i, args, scratch) queues way i on args.stream; false: it cannot run. Throws when none can.
ProductTiming time_products(DeviceRuntime& device, const ProductMemory& memory, size_t ways,
                            const std::function<bool(size_t, const MatmulArgs&, void*)>& run);

}  // namespace capstan::kernels::cuda
