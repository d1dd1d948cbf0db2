#include "kernels/rotary.h"

#include <cmath>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

/// Rotates pair i of every head of one row.
template <typename T>
void rotate_pair(const RotaryArgs& args, int64_t row, int64_t i) {
  using A = Accumulation<T>;
  const double angle = args.positions[row] * args.frequency(i), m = args.scale.amplitude;
  const A c = A(m * std::cos(angle)), s = A(m * (args.backward ? -std::sin(angle) : std::sin(angle)));
  const int64_t first = args.interleaved ? 2 * i : i, second = args.interleaved ? first + 1 : i + args.rotary_dims / 2;
  for (int64_t h = 0; h < args.heads; ++h) {
    const int64_t at = row * args.stride + h * args.head_size;
    const A a = load(in<T>(args.x)[at + first]), b = load(in<T>(args.x)[at + second]);
    store(out<T>(args.y)[at + first], a * c - b * s);
    store(out<T>(args.y)[at + second], a * s + b * c);
  }
}

}  // namespace

void rotary(const RotaryArgs& args) {
  with_element(args.dtype, "rotary", [&]<typename T>(T) {
    for (int64_t r = 0; r < args.rows; ++r) {
      for (int64_t i = 0; i < args.rotary_dims / 2; ++i) rotate_pair<T>(args, r, i);
      for (int64_t h = 0; h < args.heads; ++h) {
        const int64_t at = r * args.stride + h * args.head_size;
        for (int64_t d = args.rotary_dims; d < args.head_size; ++d) out<T>(args.y)[at + d] = in<T>(args.x)[at + d];
      }
    }
  });
}

}  // namespace capstan::kernels::reference
