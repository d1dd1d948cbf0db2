#pragma once
// Instruction sets for which the vector kernels are compiled, and which of them this processor (and its operating
// system) has. avx512_bf16 runs the vector kernels of avx512; its products use the bf16 dot product.

#include <string>

namespace capstan::kernels {

enum class InstructionSet { sse4, avx2, avx512, avx512_bf16 };

const char* name_of(InstructionSet set);

bool processor_has(InstructionSet set);

/// The processor has it and this build holds its kernels.
bool can_run(InstructionSet set);

/// The best that can run; throws std::invalid_argument when there is none (older than x86-64-v2).
InstructionSet best_instruction_set();

/// "" is the best; throws std::invalid_argument for an unknown name or one that cannot run.
InstructionSet choose_instruction_set(const std::string& name);

}  // namespace capstan::kernels
