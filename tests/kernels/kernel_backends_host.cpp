#include "tests/kernels/kernel_backends.h"

namespace capstan::kernels::testing {

std::vector<Backend> all_backends() {
  std::vector<Backend> backends = cpu_backends();
  backends.insert(backends.begin(), reference_backend());
  return backends;
}

DeviceRuntime* device_of(const Backend&) { return nullptr; }

}  // namespace capstan::kernels::testing
