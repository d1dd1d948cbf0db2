#include "kernels/cpu/cpu_backend.h"

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/matmul.h"

namespace capstan::kernels {
namespace {

void fill(InstructionSet set, Backend& table) {
  switch (set) {
    case InstructionSet::sse4:
      sse4::fill_vector_kernels(table);
      sse4::fill_attention_kernels(table);
      break;
    case InstructionSet::avx2:
      avx2::fill_vector_kernels(table);
      avx2::fill_attention_kernels(table);
      break;
    case InstructionSet::avx512:
    case InstructionSet::avx512_bf16:
      avx512::fill_vector_kernels(table);
      avx512::fill_attention_kernels(table);
      break;
  }
}

}  // namespace

Backend cpu_backend(const std::string& instruction_set) {
  const InstructionSet set = choose_instruction_set(instruction_set);
  Backend table;
  table.name = "cpu";
  table.instruction_set = name_of(set);
  table.dtypes = {DType::f32, DType::bf16};
  table.prepare_matmul = cpu_matmul_for(set);
  fill(set, table);
  return table;
}

}  // namespace capstan::kernels
