// Dropout with the residual added in the same pass. Random words are made a chunk at a time into the first-level cache.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/philox_words.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

constexpr int64_t kChunk = 1024;

struct Mask {
  uint64_t key, stream, first;  // first: logical index of element 0
  uint32_t threshold;
  float factor;
};

template <class T, bool kResidual>
void drop(const T* x, const T* residual, T* y, int64_t begin, int64_t end, const Mask& mask) {
  uint32_t buffer[kChunk + 4 + 4 * kPhiloxStep];
  const U threshold = U{} + mask.threshold;
  const F factor = splat(mask.factor);
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t count = end - at < kChunk ? end - at : kChunk;
    const uint32_t* words = philox_words(mask.key, mask.stream, mask.first + static_cast<uint64_t>(at), count, buffer);
    each_vector(
        0, count, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          U word;
          __builtin_memcpy(&word, words + i, sizeof word);  // lanes past the end are in the buffer
          const F v = load(x + at + i, lanes);
          const F kept = max(word, threshold) == word ? v * factor : F{};
          store(y + at + i, kResidual ? kept + load(residual + at + i, lanes) : kept, lanes);
        });
  }
}

template <class T>
void drop_run(const T* x, const T* residual, T* y, int64_t count, const Mask& mask) {
  parallel_shares(count, 64, 4 * count * static_cast<int64_t>(sizeof(T)), [=](int64_t begin, int64_t end) {
    if (residual) {
      drop<T, true>(x, residual, y, begin, end, mask);
    } else {
      drop<T, false>(x, residual, y, begin, end, mask);
    }
  });
}

/// A run of each sample: the logical index jumps from sample to sample.
template <class T>
void drop_runs(const DropoutArgs& a, const T* x, const T* residual, T* y, Mask mask) {
  for (int64_t s = 0; s < a.samples; ++s) {
    mask.first = (a.dropout.sample() + static_cast<uint64_t>(s)) * static_cast<uint64_t>(a.logical_elements) +
                 static_cast<uint64_t>(a.first_element);
    const int64_t at = s * a.sample_elements;
    drop_run(x + at, residual ? residual + at : nullptr, y + at, a.sample_elements, mask);
  }
}

template <class T>
void run(const DropoutArgs& a) {
  const int64_t count = a.samples * a.sample_elements;
  const T *x = static_cast<const T*>(a.x), *residual = static_cast<const T*>(a.residual);
  T* y = static_cast<T*>(a.y);
  const bool drops = a.dropout.probability > 0;
  if (!drops) {
    parallel_vectors(
        count, 3 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          const F v = load(x + i, lanes);
          store(y + i, residual ? v + load(residual + i, lanes) : v, lanes);
        });
    return;
  }
  const Mask mask{*a.dropout.key, a.dropout.stream, a.dropout.sample() * static_cast<uint64_t>(a.sample_elements),
                  dropped_below(a.dropout.probability), static_cast<float>(1.0 / (1.0 - a.dropout.probability))};
  if (a.logical_elements > 0) return drop_runs(a, x, residual, y, mask);
  drop_run(x, residual, y, count, mask);
}

}  // namespace

void dropout(const DropoutArgs& args) {
  with_element(args.dtype, [&](auto element) { run<decltype(element)>(args); });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
