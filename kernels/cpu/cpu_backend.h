#pragma once
// What the parts of the cpu backend offer to its table (kernels/backend.h: cpu_backend). The vector kernels exist once
// per instruction set, in a namespace of that name; a set that this build leaves out (CAPSTAN_INSTRUCTION_SETS) has a
// namespace too, whose vector_kernels() is null. Products come from cpu/matmul.h.

#include "kernels/backend.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/vector/gemm.h"

namespace capstan::kernels {

struct VectorKernels {
  void (*fill_table)(Backend& table);  ///< all but products
  GemmKernels gemm;
};

/// Null when this build leaves the set out.
const VectorKernels* vector_kernels_of(InstructionSet set);

namespace sse4 {
const VectorKernels* vector_kernels();
}
namespace avx2 {
const VectorKernels* vector_kernels();
}
namespace avx512 {
const VectorKernels* vector_kernels();
}

}  // namespace capstan::kernels
