// Dropout by the logical element. A pack begins at a multiple of four logical elements, so that one call of the
// generator serves four of them; where shapes do not allow that, each element calls it.

#include "kernels/dropout.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/element.cuh"

namespace capstan::kernels::cuda {
namespace {

template <typename T>
struct DropoutPass {
  Dropout dropout;
  const T *x, *residual;
  T* y;
  int64_t sample_elements, first_element, whole;
  uint32_t threshold;
  float factor;

  template <int N>
  __device__ void keep(uint64_t index, float (&v)[N]) const {
    const uint64_t key = *dropout.key;
    if constexpr (N == 1) {
      v[0] = philox_word(key, dropout.stream, index) >= threshold ? v[0] * factor : 0.0f;
    } else {
#pragma unroll
      for (int j = 0; j < N; j += 4) {
        const PhiloxBlock words = philox(key, (index + static_cast<uint64_t>(j)) >> 2, dropout.stream);
#pragma unroll
        for (int k = 0; k < 4; ++k) v[j + k] = words[static_cast<size_t>(k)] >= threshold ? v[j + k] * factor : 0.0f;
      }
    }
  }

  template <int N>
  __device__ void run(int64_t i) const {
    float v[N];
    load_pack(x + i, v);
    if (dropout.probability > 0.0) {
      const int64_t sample = i / sample_elements;
      const uint64_t logical_sample = *dropout.first_sample + dropout.sample_offset + static_cast<uint64_t>(sample);
      const uint64_t first = logical_sample * static_cast<uint64_t>(whole);
      keep(first + static_cast<uint64_t>(first_element + i - sample * sample_elements), v);
    }
    if (residual != nullptr) {
      float other[N];
      load_pack(residual + i, other);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] += other[j];
    }
    store_pack(y + i, v);
  }
};

}  // namespace

void dropout(const DropoutArgs& args) {
  with_element(args.dtype, "dropout", [&]<typename T>(T) {
    const double p = args.dropout.probability;
    const int64_t whole = args.logical_elements > 0 ? args.logical_elements : args.sample_elements;
    const DropoutPass<T> pass{args.dropout,
                              static_cast<const T*>(args.x),
                              static_cast<const T*>(args.residual),
                              static_cast<T*>(args.y),
                              args.sample_elements,
                              args.first_element,
                              whole,
                              drop_threshold(p),
                              static_cast<float>(1.0 / (1.0 - p))};
    const bool blocks_fit = args.sample_elements % kPack<T> == 0 && whole % 4 == 0 && args.first_element % 4 == 0;
    const bool by_packs = aligned({args.x, args.residual, args.y}) && (blocks_fit || p == 0.0);
    each_element<kPack<T>>(pass, args.samples * args.sample_elements, by_packs, args.stream);
  });
}

}  // namespace capstan::kernels::cuda
