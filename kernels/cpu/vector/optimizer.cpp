// AdamW in one pass over master, gradient and moments; the sum of squares in double over a fixed number of shares, so
// that it does not depend on the threads; and the clipping that follows from it.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

constexpr int64_t kShares = 256;

template <class T>
double squares(const T* x, int64_t count) {
  D low[4] = {}, high[4] = {};
  each_vector_of_four(
      count, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
        const F v = load(x + i, lanes);
        const D a = low_double(v), b = high_double(v);
        low[k] = fma(a, a, low[k]);
        high[k] = fma(b, b, high[k]);
      });
  return sum_lanes(((low[0] + low[1]) + (low[2] + low[3])) + ((high[0] + high[1]) + (high[2] + high[3])));
}

struct AdamW {
  float beta1, beta2, gradient_scale, decay, step, root_correction, epsilon;

  explicit AdamW(const AdamWArgs& a) {
    const StepScalars& s = *a.scalars;
    beta1 = static_cast<float>(a.beta1);
    beta2 = static_cast<float>(a.beta2);
    gradient_scale = static_cast<float>(s.clip_scale);
    decay = static_cast<float>(1.0 - s.learning_rate * a.weight_decay);
    step = static_cast<float>(-s.learning_rate / s.correction1);
    root_correction = static_cast<float>(1.0 / __builtin_sqrt(s.correction2));
    epsilon = static_cast<float>(a.epsilon);
  }
};

template <class Working, bool kCopies>
void update(const AdamWArgs& a) {
  const AdamW c(a);
  const float rest1 = static_cast<float>(1.0 - a.beta1), rest2 = static_cast<float>(1.0 - a.beta2);
  const float* gradient = static_cast<const float*>(a.gradient);
  float *parameter = static_cast<float*>(a.parameter), *moment1 = static_cast<float*>(a.moment1),
        *moment2 = static_cast<float*>(a.moment2);
  Working* working = static_cast<Working*>(a.working);
  parallel_vectors(
      a.count, 28, [=](int64_t i, auto lanes) __attribute__((always_inline)) {
        const F g = load(gradient + i, lanes) * c.gradient_scale;
        const F m = fma(load(moment1 + i, lanes), splat(c.beta1), g * rest1);
        const F v = fma(load(moment2 + i, lanes), splat(c.beta2), g * g * rest2);
        const F denominator = fma(sqrt(v), splat(c.root_correction), splat(c.epsilon));
        const F p = fma(load(parameter + i, lanes), splat(c.decay), m / denominator * c.step);
        store(moment1 + i, m, lanes);
        store(moment2 + i, v, lanes);
        store(parameter + i, p, lanes);
        if (kCopies) store(working + i, p, lanes);
      });
}

}  // namespace

size_t square_sum_scratch() { return kShares * sizeof(double); }

void square_sum(const SquareSumArgs& args) {
  double* sums = static_cast<double*>(args.scratch);
  with_element(args.dtype, [&](auto element) {
    using T = decltype(element);
    const T* x = static_cast<const T*>(args.x);
    const int64_t share = ((args.count + kShares - 1) / kShares + 63) / 64 * 64;
    parallel_shares(kShares, 1, args.count * static_cast<int64_t>(sizeof(T)), [=](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k) {
        const int64_t begin = k * share, end = begin + share < args.count ? begin + share : args.count;
        sums[k] = begin < end ? squares(x + begin, end - begin) : 0.0;
      }
    });
  });
  double sum = 0;
  for (int64_t k = 0; k < kShares; ++k) sum += sums[k];
  if (args.weight) sum *= *args.weight;
  *args.sum = args.accumulate ? *args.sum + sum : sum;
}

void clip(const ClipArgs& args) {
  double sum = 0;
  for (int64_t i = 0; i < args.count; ++i) sum += args.square_sums[i];
  decide_step(*args.scalars, __builtin_sqrt(sum));
}

void adamw(const AdamWArgs& args) {
  assert(args.dtype == DType::f32);
  if (args.scalars->skip != 0.0) return;
  if (!args.working) return update<float, false>(args);
  with_element(args.working_dtype, [&](auto element) { update<decltype(element), true>(args); });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
