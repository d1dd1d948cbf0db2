#pragma once
// Our own matrix product, for what the library behind matmul.h does not do well: it packs both sides into f32 panels in
// the caller's scratch (bf16 is widened on the way, so bf16 runs at f32 speed where the processor has no bf16
// instructions), and it never allocates. Each element of C is summed over k in an order that depends on the shape only,
// so the result is the same for any number of threads. Compiled once per instruction set.

#include <cstddef>
#include <cstdint>

#include "kernels/matmul.h"

namespace capstan::kernels {

/// Up to here a product with a transposed B (a weight [out, in]) is made of dot products: nothing is packed, B is read
/// once. At 16 rows of 768 by 50304 that was 1.25 times as fast as packing.
constexpr int64_t kFewRows = 20;

/// The entry points of one instruction set. `threads` must be the same in both calls.
struct GemmKernels {
  size_t (*scratch_bytes)(const MatmulShape& shape, int threads);
  /// Bias and accumulation are done; the activation is left to the caller.
  void (*run)(const MatmulShape& shape, const MatmulArgs& args, int threads, void* scratch);
};

}  // namespace capstan::kernels
