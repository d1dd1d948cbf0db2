#include "kernels/dropout.h"

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {

void dropout(const DropoutArgs& args) {
  const Dropout& d = args.dropout;
  const bool active = d.probability > 0.0;
  const uint32_t threshold = drop_threshold(d.probability);
  const int64_t whole = args.logical_elements > 0 ? args.logical_elements : args.sample_elements;
  const uint64_t first_sample = active ? d.sample() : 0;
  with_element(args.dtype, "dropout", [&]<typename T>(T) {
    using A = Accumulation<T>;
    const A factor = A(1.0 / (1.0 - d.probability));
    const T* x = in<T>(args.x);
    const T* residual = in<T>(args.residual);
    T* y = out<T>(args.y);
    for (int64_t i = 0; i < args.samples * args.sample_elements; ++i) {
      const uint64_t sample = first_sample + static_cast<uint64_t>(i / args.sample_elements);
      const uint64_t index =
          sample * static_cast<uint64_t>(whole) + static_cast<uint64_t>(args.first_element + i % args.sample_elements);
      const bool kept = !active || philox_word(*d.key, d.stream, index) >= threshold;
      const A value = kept ? load(x[i]) * factor : A(0);
      store(y[i], residual ? value + load(residual[i]) : value);
    }
  });
}

}  // namespace capstan::kernels::reference
