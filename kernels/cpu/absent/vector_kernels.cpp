// Stands in for the vector kernels of an instruction set that this build leaves out.

#include "kernels/cpu/cpu_backend.h"

namespace capstan::kernels::CAPSTAN_ISA {

const VectorKernels* vector_kernels() { return nullptr; }

}  // namespace capstan::kernels::CAPSTAN_ISA
