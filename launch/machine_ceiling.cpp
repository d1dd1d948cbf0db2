#include "launch/machine_ceiling.h"

#include <algorithm>
#include <chrono>

#include "core/arena.h"

namespace capstan {

double measure_product_rate(const kernels::Backend& backend, DType dtype, int64_t side, int rounds,
                            kernels::DeviceRuntime* device) {
  kernels::MatmulShape shape{side, side, side, false, true, dtype, dtype, dtype};
  const auto product = backend.prepare_matmul(shape);
  const size_t bytes = (static_cast<size_t>(side * side) * bytes_of(dtype) + 63) / 64 * 64;
  // Zeros: the rate does not depend on values, or for the better, as less power is drawn.
  const Arena arena(3 * bytes + product->scratch_bytes(), device);
  const kernels::Stream stream = device ? device->main_stream() : nullptr;
  char* base = arena.data();
  double best = 0.0;
  for (int i = 0; i <= rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    kernels::MatmulArgs args{base, base + bytes, nullptr, base + 2 * bytes};
    args.stream = stream;
    product->run(args, base + 3 * bytes);
    if (device) device->finish(stream);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double flops = 2.0 * static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
    if (i > 0) best = std::max(best, flops / seconds);  // the first touches the pages
  }
  return best;
}

}  // namespace capstan
