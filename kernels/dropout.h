#pragma once
// Inverted dropout: y = x / (1 - p) where kept, else 0. Which elements are kept is a pure function of the logical
// element: philox_word(key, stream, logical index) >= drop_threshold(p), so it does not depend on ranks, microbatches
// or recomputation. The same function, applied to dy, is its backward.

#include <cstdint>

#include "kernels/philox.h"
#include "kernels/types.h"

namespace capstan::kernels {

/// probability 0: no dropout, the pointers may be null. The pointers are data that change from step to step.
struct Dropout {
  double probability = 0.0;
  uint64_t stream = 0;                     ///< which dropout site of the model
  const uint64_t* key = nullptr;           ///< run seed mixed with the step
  const uint64_t* first_sample = nullptr;  ///< logical index of the first sample of this microbatch, within the step
  uint64_t sample_offset = 0;              ///< added to it, for a call over later samples

  /// Of the first sample of a call; reads memory of the device.
  [[gnu::always_inline]] uint64_t sample() const { return *first_sample + sample_offset; }
};

struct DropoutArgs {
  Dropout dropout;
  const void* x = nullptr;                   ///< [samples, elements of one sample]
  const void* residual = nullptr;            ///< added after dropping, or null
  void* y = nullptr;                         ///< may be x or residual
  int64_t samples = 0, sample_elements = 0;  ///< logical index of an element: (first_sample + s) * sample_elements + e
  DType dtype = DType::f32;
  /// x may hold a run of each sample only: elements first_element .. + sample_elements of logical_elements (0: all),
  /// with logical index (first_sample + s) * logical_elements + first_element + e.
  int64_t first_element = 0, logical_elements = 0;
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
