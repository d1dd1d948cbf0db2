#include "kernels/cpu/cpu_backend.h"

#include "kernels/cpu/matmul.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels {

const VectorKernels* vector_kernels_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::sse4:
      return sse4::vector_kernels();
    case InstructionSet::avx2:
      return avx2::vector_kernels();
    case InstructionSet::avx512:
    case InstructionSet::avx512_bf16:
      return avx512::vector_kernels();
  }
  return nullptr;
}

Backend cpu_backend(const std::string& instruction_set) {
  const InstructionSet set = choose_instruction_set(instruction_set);
  Backend table;
  table.name = "cpu";
  table.instruction_set = name_of(set);
  table.dtypes = {DType::f32, DType::bf16};
  table.copy = reference::copy;  // memcpy and plain stores: nothing to gain
  table.fill = reference::fill;
  table.not_finite = reference::not_finite;
  table.begin_step = reference::begin_step;
  table.prepare_matmul = cpu_matmul_for(set);
  table.fuses = cpu_fuses;
  vector_kernels_of(set)->fill_table(table);
  return table;
}

}  // namespace capstan::kernels
