#pragma once
// Every backend that this machine can run: the reference, and the CPU backend under each instruction set it has.

#include <stdexcept>
#include <vector>

#include "kernels/backend.h"

namespace capstan::kernels::testing {

inline constexpr const char* kInstructionSets[] = {"sse4", "avx2", "avx512", "avx512_bf16"};

inline std::vector<Backend> cpu_backends() {
  std::vector<Backend> backends;
  for (const char* name : kInstructionSets) {
    try {
      backends.push_back(cpu_backend(name));
    } catch (const std::invalid_argument&) {
      // this processor lacks it
    }
  }
  return backends;
}

inline std::vector<Backend> all_backends() {
  std::vector<Backend> backends = cpu_backends();
  backends.insert(backends.begin(), reference_backend());
  return backends;
}

}  // namespace capstan::kernels::testing
