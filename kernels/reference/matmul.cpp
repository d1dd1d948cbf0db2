#include "kernels/matmul.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/reference/activation_math.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

constexpr int64_t kColumns = 8;  // columns of a transposed B taken together: eight sums, each still in ascending k

/// row[n] = sum over k of op(A)[i, k] op(B)[k, n], every sum in ascending k whichever way B lies.
template <typename T, typename A>
void product_row(const MatmulShape& s, const T* a, const T* b, int64_t i, A* row) {
  const int64_t a_start = s.transpose_a ? i : i * s.k, a_step = s.transpose_a ? s.m : 1;
  std::fill_n(row, s.n, A(0));
  if (!s.transpose_b) {
    for (int64_t k = 0; k < s.k; ++k) {
      const A x = load(a[a_start + k * a_step]);
      const T* b_row = b + k * s.n;
      for (int64_t j = 0; j < s.n; ++j) row[j] += x * load(b_row[j]);
    }
    return;
  }
  for (int64_t j = 0; j < s.n; j += kColumns) {
    const int64_t columns = std::min(kColumns, s.n - j);
    for (int64_t k = 0; k < s.k; ++k) {
      const A x = load(a[a_start + k * a_step]);
      for (int64_t c = 0; c < columns; ++c) row[j + c] += x * load(b[(j + c) * s.k + k]);
    }
  }
}

class ReferenceMatmul : public PreparedMatmul {
 public:
  explicit ReferenceMatmul(const MatmulShape& shape) : shape_(shape) {}
  size_t scratch_bytes() const override { return static_cast<size_t>(shape_.n) * bytes_of(accumulation_of(shape_.a)); }

  void run(const MatmulArgs& args, void* scratch) const override {
    with_element(shape_.a, "matmul", [&]<typename T>(T) {
      if (shape_.c == shape_.a) {
        rows<T, T>(args, out<Accumulation<T>>(scratch));
      } else {
        rows<T, Accumulation<T>>(args, out<Accumulation<T>>(scratch));
      }
    });
    if (!shape_.bias_gradient) return;
    BiasGradientArgs sums;
    sums.dy = args.a, sums.db = args.bias_gradient;
    sums.rows = shape_.k, sums.n = shape_.m, sums.dtype = shape_.a, sums.accumulate = args.accumulate;
    bias_gradient(sums);
  }

 private:
  template <typename T, typename C>
  void rows(const MatmulArgs& args, Accumulation<T>* row) const {
    using A = Accumulation<T>;
    const T* bias = in<T>(args.bias);
    const bool derives = shape_.activation_gradient != ActivationKind::none;
    for (int64_t i = 0; i < shape_.m; ++i) {
      product_row(shape_, in<T>(args.a), in<T>(args.b), i, row);
      C* c = out<C>(args.c) + i * shape_.n;
      C* aux = shape_.keeps_input || derives ? out<C>(args.aux) + i * shape_.n : nullptr;
      for (int64_t j = 0; j < shape_.n; ++j) {
        A x = shape_.bias ? row[j] + load(bias[j]) : row[j];
        if (shape_.trains()) {  // the same bits as apart
          C rounded;
          store(rounded, x);
          if (shape_.keeps_input) aux[j] = rounded;
          x = load(rounded);
        }
        const A value = derives ? activation_derivative(shape_.activation_gradient, A(load(aux[j]))) * x
                                : activation_value(shape_.activation, x);
        store(c[j], args.accumulate ? load(c[j]) + value : value);
      }
    }
  }

  MatmulShape shape_;
};

}  // namespace

std::unique_ptr<PreparedMatmul> prepare_matmul(const MatmulShape& shape) {
  with_element(shape.a, "matmul", [](auto) {});
  if (shape.b != shape.a) throw std::invalid_argument("matmul: both operands need one dtype");
  if (shape.c != shape.a && shape.c != accumulation_of(shape.a)) {
    throw std::invalid_argument("matmul: the result has the operands' dtype or its accumulation dtype");
  }
  if (const char* mistake = epilogue_mistake(shape)) throw std::invalid_argument(mistake);
  return std::make_unique<ReferenceMatmul>(shape);
}

bool fuses(const MatmulShape& shape) { return shape.trains(); }

size_t bias_gradient_scratch(int64_t, int64_t) { return 0; }

void bias_gradient(const BiasGradientArgs& args) {
  with_element(args.dtype, "bias_gradient", [&]<typename T>(T) {
    using A = Accumulation<T>;
    const T* dy = in<T>(args.dy);
    A* db = out<A>(args.db);
    if (!args.accumulate) std::fill_n(db, args.n, A(0));
    for (int64_t r = 0; r < args.rows; ++r) {
      for (int64_t j = 0; j < args.n; ++j) db[j] += load(dy[r * args.n + j]);
    }
  });
}

}  // namespace capstan::kernels::reference
