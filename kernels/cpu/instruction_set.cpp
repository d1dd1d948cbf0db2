#include "kernels/cpu/instruction_set.h"

#include <stdexcept>

#include "kernels/cpu/cpu_backend.h"

namespace capstan::kernels {
namespace {

constexpr InstructionSet kBestFirst[] = {InstructionSet::avx512_bf16, InstructionSet::avx512, InstructionSet::avx2,
                                         InstructionSet::sse4};

std::string available() {
  std::string names;
  for (InstructionSet set : kBestFirst) {
    if (can_run(set)) names += (names.empty() ? "" : ", ") + std::string(name_of(set));
  }
  return names.empty() ? "none" : names;
}

}  // namespace

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::sse4:
      return "sse4";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx512_bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

// The levels x86-64-v2, -v3 and -v4 are exactly what the vector kernels are compiled for (kernels/CMakeLists.txt).
bool processor_has(InstructionSet set) {
  __builtin_cpu_init();
  switch (set) {
    case InstructionSet::sse4:
      return __builtin_cpu_supports("x86-64-v2") != 0;
    case InstructionSet::avx2:
      return __builtin_cpu_supports("x86-64-v3") != 0;
    case InstructionSet::avx512:
      return __builtin_cpu_supports("x86-64-v4") != 0;
    case InstructionSet::avx512_bf16:
      return __builtin_cpu_supports("x86-64-v4") != 0 && __builtin_cpu_supports("avx512bf16") != 0;
  }
  return false;
}

bool can_run(InstructionSet set) { return processor_has(set) && vector_kernels_of(set); }

InstructionSet best_instruction_set() {
  for (InstructionSet set : kBestFirst) {
    if (can_run(set)) return set;
  }
  throw std::invalid_argument(
      processor_has(InstructionSet::sse4)
          ? "this build holds no kernels for this processor (it was made on another one, with "
            "CAPSTAN_INSTRUCTION_SETS=native); build it here"
          : "this processor lacks SSE4.2 (x86-64-v2), the least that the cpu kernels need; use the reference kernels");
}

InstructionSet choose_instruction_set(const std::string& name) {
  if (name.empty()) return best_instruction_set();
  for (InstructionSet set : kBestFirst) {
    if (name != name_of(set)) continue;
    if (can_run(set)) return set;
    throw std::invalid_argument("instruction set " + name +
                                " is not available here; this processor and build have: " + available());
  }
  throw std::invalid_argument("unknown instruction set \"" + name +
                              "\"; this processor and build have: " + available());
}

}  // namespace capstan::kernels
