// Layer norm and RMS norm: memory is read and written once per row; the further passes of a row run in cache. The
// variance is that of the differences from the mean (a second pass), never a difference of large sums. (Two rows at a
// time were tried and are slower: their six to eight streams crowd the first-level cache.)

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

/// Running sums of one row, in four chains that do not wait for each other.
struct RowSum {
  F chain[4] = {};
  [[gnu::always_inline]] float total() const { return sum_lanes((chain[0] + chain[1]) + (chain[2] + chain[3])); }
};

template <class T>
struct Forward {
  const T *x, *residual, *weight, *bias;
  T *sum, *y;
  float *mean, *rstd;
  int64_t width;
  float inverse_width, epsilon;

  /// s = x + residual; its sum (layer) or the sum of its squares (rms).
  template <bool kRms, bool kResidual>
  [[gnu::always_inline]] float first_pass(int64_t at) const {
    RowSum row;
    each_vector_of_four(
        width, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
          F s = load(x + at + i, lanes);
          if (kResidual) {
            s = rounded_to(s + load(residual + at + i, lanes), x);
            store(sum + at + i, s, lanes);
          }
          row.chain[k] = kRms ? fma(s, s, row.chain[k]) : row.chain[k] + s;
        });
    return row.total();
  }

  [[gnu::always_inline]] float centred_squares(const T* s, float centre) const {
    RowSum row;
    each_vector_of_four(
        width, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
          const F d = valid(load(s + i, lanes) - centre, lanes);
          row.chain[k] = fma(d, d, row.chain[k]);
        });
    return row.total();
  }

  template <bool kRms, bool kResidual, bool kBias>
  [[gnu::always_inline]] void row(int64_t r) const {
    const int64_t at = r * width;
    const T* s = (kResidual ? sum : x) + at;
    float squares = first_pass<kRms, kResidual>(at), centre = 0;
    if (!kRms) {
      mean[r] = centre = squares * inverse_width;
      squares = centred_squares(s, centre);
    }
    const float factor = 1.0f / __builtin_sqrtf(squares * inverse_width + epsilon);
    rstd[r] = factor;
    T* to = y + at;
    each_two_vectors(
        0, width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const auto v = load(s + i, lanes), n = (kRms ? v : v - centre) * factor, w = load(weight + i, lanes);
          store(to + i, kBias ? fma(n, w, load(bias + i, lanes)) : n * w, lanes);
        });
  }

  template <bool kRms, bool kResidual, bool kBias>
  void share(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) row<kRms, kResidual, kBias>(r);
  }
};

/// Calls with the flag as a type: with_flag(f, [](auto flag) { g<flag.value>(); }).
template <bool kValue>
struct Flag {
  static constexpr bool value = kValue;
};
template <class Call>
[[gnu::always_inline]] inline void with_flag(bool flag, Call call) {
  if (flag) {
    call(Flag<true>{});
  } else {
    call(Flag<false>{});
  }
}

template <class T>
void forward(const NormArgs& a) {
  const Forward<T> kernel{static_cast<const T*>(a.x),
                          static_cast<const T*>(a.residual),
                          static_cast<const T*>(a.weight),
                          static_cast<const T*>(a.bias),
                          static_cast<T*>(a.sum),
                          static_cast<T*>(a.y),
                          static_cast<float*>(a.mean),
                          static_cast<float*>(a.rstd),
                          a.width,
                          static_cast<float>(1.0 / static_cast<double>(a.width)),
                          static_cast<float>(a.epsilon)};
  const int64_t bytes = a.rows * a.width * static_cast<int64_t>(sizeof(T)) * (a.residual ? 4 : 2);
  with_flag(a.rms, [&](auto rms) {
    with_flag(a.residual, [&](auto residual) {
      with_flag(a.bias, [&](auto bias) {
        parallel_shares(a.rows, 1, bytes, [&](int64_t begin, int64_t end) {
          kernel.template share<rms.value, residual.value, bias.value>(begin, end);
        });
      });
    });
  });
}

template <class T>
struct Backward {
  const T *s, *weight, *dy, *dsum;
  const float *mean, *rstd;
  T* ds;
  int64_t width;
  float inverse_width;

  /// weight_sums, bias_sums: this block's partial gradients [width].
  template <bool kRms, bool kWeight, bool kBias>
  [[gnu::always_inline]] void row(int64_t r, float* weight_sums, float* bias_sums) const {
    const T *s_row = s + r * width, *dy_row = dy + r * width, *dsum_row = dsum ? dsum + r * width : nullptr;
    const float centre = kRms ? 0.0f : mean[r], factor = rstd[r];
    RowSum plain, projected;
    each_vector_of_four(
        width, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
          const F v = load(s_row + i, lanes), n = (kRms ? v : v - centre) * factor;
          const F d = load(dy_row + i, lanes), g = d * load(weight + i, lanes);
          if (!kRms) plain.chain[k] += g;
          projected.chain[k] = fma(g, n, projected.chain[k]);
          if (kWeight) store(weight_sums + i, fma(d, n, load(weight_sums + i, lanes)), lanes);
          if (kBias) store(bias_sums + i, load(bias_sums + i, lanes) + d, lanes);
        });
    const float mean_g = kRms ? 0.0f : plain.total() * inverse_width, mean_gn = projected.total() * inverse_width;
    T* to = ds + r * width;
    each_two_vectors(
        0, width, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          const auto v = load(s_row + i, lanes), n = (kRms ? v : v - centre) * factor;
          const auto g = load(dy_row + i, lanes) * load(weight + i, lanes);
          const auto c = fma(n, -mean_gn, kRms ? g : g - mean_g);
          store(to + i, dsum_row ? fma(c, factor, load(dsum_row + i, lanes)) : c * factor, lanes);
        });
  }

  template <bool kRms, bool kWeight, bool kBias>
  void block(int64_t begin, int64_t end, float* weight_sums, float* bias_sums) const {
    if (kWeight) __builtin_memset(weight_sums, 0, sizeof(float) * static_cast<size_t>(width));
    if (kBias) __builtin_memset(bias_sums, 0, sizeof(float) * static_cast<size_t>(width));
    for (int64_t r = begin; r < end; ++r) row<kRms, kWeight, kBias>(r, weight_sums, bias_sums);
  }
};

template <class T>
void backward(const NormBackwardArgs& a) {
  const Backward<T> kernel{static_cast<const T*>(a.s),
                           static_cast<const T*>(a.weight),
                           static_cast<const T*>(a.dy),
                           static_cast<const T*>(a.dsum),
                           static_cast<const float*>(a.mean),
                           static_cast<const float*>(a.rstd),
                           static_cast<T*>(a.ds),
                           a.width,
                           static_cast<float>(1.0 / static_cast<double>(a.width))};
  const RowBlocks blocks(a.rows);
  float *weight_sums = static_cast<float*>(a.scratch), *bias_sums = weight_sums + blocks.count * a.width;
  const int64_t bytes = a.rows * a.width * static_cast<int64_t>(sizeof(T)) * (a.dsum ? 4 : 3);
  with_flag(a.rms, [&](auto rms) {
    with_flag(a.dweight, [&](auto weight) {
      with_flag(a.dbias, [&](auto bias) {
        parallel_shares(blocks.count, 1, bytes, [&](int64_t first, int64_t last) {
          for (int64_t b = first; b < last; ++b) {
            kernel.template block<rms.value, weight.value, bias.value>(
                blocks.begin(b), blocks.end(b), weight_sums + b * a.width, bias_sums + b * a.width);
          }
        });
      });
    });
  });
  if (a.dweight) {
    sum_blocks(weight_sums, blocks.count, a.width, a.width, a.accumulate, static_cast<float*>(a.dweight));
  }
  if (a.dbias) sum_blocks(bias_sums, blocks.count, a.width, a.width, a.accumulate, static_cast<float*>(a.dbias));
}

}  // namespace

void norm(const NormArgs& args) {
  with_element(args.dtype, [&](auto element) { forward<decltype(element)>(args); });
}

size_t norm_backward_scratch(int64_t rows, int64_t width, DType) {
  return static_cast<size_t>(2 * RowBlocks(rows).count * width) * sizeof(float);
}

void norm_backward(const NormBackwardArgs& args) {
  with_element(args.dtype, [&](auto element) { backward<decltype(element)>(args); });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
