#include "parallel/reduction_tree.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "core/error.h"

namespace capstan {
namespace {

constexpr size_t kBlock = 1024;  // elements worked on at a time: the partial sums of a block stay in the L1 cache
constexpr int kLevels = 31;      // depth of the deepest tree an int can count

// Integers are added as unsigned, so that a sum that leaves the range wraps instead of being undefined.
template <typename T>
struct Sum {
  static T of(T a, T b) { return a + b; }
};
template <>
struct Sum<int32_t> {
  static int32_t of(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }
};
template <>
struct Sum<int64_t> {
  static int64_t of(int64_t a, int64_t b) {
    return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  }
};
template <typename T>
struct Max {
  static T of(T a, T b) { return (a > b || a != a) ? a : b; }  // a NaN on either side is the result
};

// How an element is stored and how it is summed. Partial sums are of type Partial.
template <typename T>
struct Plain {
  using Stored = T;
  using Partial = T;
  static Partial load(Stored v) { return v; }
  static Stored store(Partial v) { return v; }
};
struct Bf16 {
  using Stored = uint16_t;
  using Partial = float;
  static Partial load(Stored v) { return std::bit_cast<float>(static_cast<uint32_t>(v) << 16); }
  static Stored store(Partial v) { return BFloat16(v).bits; }
};
struct F16 {
  using Stored = uint16_t;
  using Partial = float;
  static Partial load(Stored v) { return static_cast<float>(std::bit_cast<Float16>(v)); }
  static Stored store(Partial v) { return Float16(v).bits; }
};

template <typename E, template <typename> class Op>
class Tree {
  using Stored = typename E::Stored;
  using Partial = typename E::Partial;
  using Block = std::array<Partial, kBlock>;

 public:
  Tree(const void* const* inputs, int ranks) : inputs_(inputs), ranks_(ranks) {
    while (width_ < ranks_) width_ *= 2;
  }

  void run(Stored* out, size_t count) {
    for (size_t begin = 0; begin < count; begin += kBlock) {
      const size_t n = std::min(kBlock, count - begin);
      if (ranks_ == 2)
        pair(out + begin, begin, n);
      else
        block(out + begin, begin, n);
    }
  }

 private:
  const Stored* input(int rank, size_t begin) const { return static_cast<const Stored*>(inputs_[rank]) + begin; }

  void pair(Stored* out, size_t begin, size_t n) const {
    const Stored *a = input(0, begin), *b = input(1, begin);
#pragma omp simd
    for (size_t i = 0; i < n; ++i) out[i] = E::store(Op<Partial>::of(E::load(a[i]), E::load(b[i])));
  }

  void block(Stored* out, size_t begin, size_t n) {
    Partial* result = levels_[0].data();
    node(0, width_, 0, begin, n);
#pragma omp simd
    for (size_t i = 0; i < n; ++i) out[i] = E::store(result[i]);
  }

  /// levels_[level] := the sum of inputs [low, low + width) that exist; deeper levels are scratch.
  void node(int low, int width, int level, size_t begin, size_t n) {
    Partial* sum = levels_[level].data();
    const int half = width / 2;
    if (width == 1) return leaf(sum, input(low, begin), n);
    if (low + half >= ranks_) return node(low, half, level, begin, n);
    if (width == 2) return leaves(sum, input(low, begin), input(low + 1, begin), n);
    node(low, half, level, begin, n);
    node(low + half, half, level + 1, begin, n);
    const Partial* right = levels_[level + 1].data();
#pragma omp simd
    for (size_t i = 0; i < n; ++i) sum[i] = Op<Partial>::of(sum[i], right[i]);
  }

  static void leaf(Partial* sum, const Stored* a, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; ++i) sum[i] = E::load(a[i]);
  }

  static void leaves(Partial* sum, const Stored* a, const Stored* b, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; ++i) sum[i] = Op<Partial>::of(E::load(a[i]), E::load(b[i]));
  }

  const void* const* inputs_;
  int ranks_;
  int width_ = 1;
  std::array<Block, kLevels> levels_;  // written before it is read; only the first few are ever touched
};

template <typename E>
void reduce(void* out, const void* const* inputs, int ranks, size_t count, ReduceOp op) {
  auto* typed = static_cast<typename E::Stored*>(out);
  if (op == ReduceOp::sum)
    Tree<E, Sum>(inputs, ranks).run(typed, count);
  else
    Tree<E, Max>(inputs, ranks).run(typed, count);
}

}  // namespace

void reduce_tree(void* out, const void* const* inputs, int ranks, size_t count, DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::f64:
      return reduce<Plain<double>>(out, inputs, ranks, count, op);
    case DType::f32:
      return reduce<Plain<float>>(out, inputs, ranks, count, op);
    case DType::bf16:
      return reduce<Bf16>(out, inputs, ranks, count, op);
    case DType::f16:
      return reduce<F16>(out, inputs, ranks, count, op);
    case DType::i64:
      return reduce<Plain<int64_t>>(out, inputs, ranks, count, op);
    case DType::i32:
      return reduce<Plain<int32_t>>(out, inputs, ranks, count, op);
    default:
      throw Error::make(ExitCode::internal, "reduction over ranks: wanted f64, f32, bf16, f16, i64 or i32, got {}",
                        name_of(dtype));
  }
}

}  // namespace capstan
