#pragma once
// Matrix products on processors. Which way a product goes is a fixed rule of instruction set and shape, never a timed
// choice, so a run can be repeated bit for bit:
//   few rows (decoding), B transposed                   our dot products, B read once (vector/gemm.h)
//   AVX-512 in f32, AVX-512 with bf16 instructions      oneDNN's batch-reduce kernels, weights packed when many rows
//   use them all else                                            our packed product (vector/gemm.h)
// oneDNN's other kernels allocate megabytes in every call, so they are refused here; on AVX2 ours is as fast.
// The number of OpenMP threads is taken when the product is prepared.

#include <memory>

#include "kernels/cpu/instruction_set.h"
#include "kernels/matmul.h"

namespace capstan::kernels {

/// Products held to one instruction set, which the caller has checked that the processor has.
PrepareMatmul cpu_matmul_for(InstructionSet set);

/// Nothing: what stands in a cache is read again for little.
bool cpu_fuses(const MatmulShape& shape);

/// oneDNN's product, or null where it would not run one of its allocation-free kernels.
std::unique_ptr<PreparedMatmul> prepare_library_matmul(const MatmulShape& shape);

}  // namespace capstan::kernels
