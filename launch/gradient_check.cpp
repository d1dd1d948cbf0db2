#include "launch/gradient_check.h"

#include <cmath>

namespace capstan {
namespace {

template <typename T>
bool all_finite(const T* values, int64_t count) {
  bool finite = true;
#pragma omp parallel for reduction(&& : finite)
  for (int64_t i = 0; i < count; ++i) finite = finite && std::isfinite(values[i]);
  return finite;
}

}  // namespace

std::vector<int> ranks_with_bad_gradients(const TrainingProgram& training, Communicator& world) {
  const Program& program = training.program();
  if (training.gradients_divided()) return {};  // nobody has its own any more
  const size_t element = bytes_of(training.master_dtype());
  bool finite = true;
  program.get(program.address("gradients"), static_cast<size_t>(training.layout().elements) * element,
              [&](const void* from, size_t, size_t bytes) {
                const int64_t count = static_cast<int64_t>(bytes / element);
                finite = finite &&
                         (training.master_dtype() == DType::f64 ? all_finite(static_cast<const double*>(from), count)
                                                                : all_finite(static_cast<const float*>(from), count));
              });
  const int32_t mine = finite ? 0 : 1;
  std::vector<int32_t> bad(static_cast<size_t>(world.size()));
  world.all_gather(&mine, bad.data(), 1, DType::i32);
  std::vector<int> ranks;
  for (size_t rank = 0; rank < bad.size(); ++rank)
    if (bad[rank] != 0) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

}  // namespace capstan
