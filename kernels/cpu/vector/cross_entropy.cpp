// Cross-entropy: one pass over the logits. A block of a row is brought into the first-level cache by the search for its
// maximum; its exponentials are summed from there, and the sum so far is rescaled when the maximum has grown.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/math.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

constexpr int64_t kBlock = 2048;

template <class T>
[[gnu::always_inline]] inline float maximum(const T* x, int64_t count) {
  const float lowest = -__builtin_inff();
  F best[4] = {splat(lowest), splat(lowest), splat(lowest), splat(lowest)};
  each_vector_of_four(
      count, [&](int64_t i, auto lanes, int k) __attribute__((always_inline)) {
        best[k] = max(valid_or(load(x + i, lanes), lowest, lanes), best[k]);
      });
  return max_lanes(max(max(best[0], best[1]), max(best[2], best[3])));
}

[[gnu::always_inline]] inline void add_to(F& even, F& odd, F2 v, Twice) {
  even += v.a;
  odd += v.b;
}
template <class Lanes>
[[gnu::always_inline]] inline void add_to(F& even, F&, F v, Lanes lanes) {
  even += valid(v, lanes);
}

struct Exponentials {
  float top;   ///< the maximum, -inf of nothing
  double sum;  ///< of exp(x - top)
};

template <class T>
Exponentials sum_exponentials(const T* x, int64_t count) {
  double sum = 0;
  float top = -__builtin_inff();
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t length = count - at < kBlock ? count - at : kBlock;
    const float block_top = maximum(x + at, length);
    if (block_top > top) {
      if (at > 0) sum *= __builtin_exp(static_cast<double>(top) - static_cast<double>(block_top));
      top = block_top;
    }
    const float shift = top == -__builtin_inff() ? 0.0f : top;
    F even{}, odd{};
    each_two_vectors(
        0, length, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          add_to(even, odd, exp_bounded(load(x + at + i, lanes) - shift), lanes);
        });
    sum += static_cast<double>(sum_lanes(even + odd));
  }
  return {top, sum};
}

template <class T>
double log_sum_exp(const T* x, int64_t count) {
  const Exponentials e = sum_exponentials(x, count);
  return static_cast<double>(e.top == -__builtin_inff() ? 0.0f : e.top) + __builtin_log(e.sum);
}

template <class T>
void forward(const CrossEntropyArgs& a) {
  const T* logits = static_cast<const T*>(a.logits);
  float *logsumexp = static_cast<float*>(a.logsumexp), *nll = static_cast<float*>(a.nll);
  const int64_t bytes = a.rows * a.padded * static_cast<int64_t>(sizeof(T));
  parallel_shares(a.rows, 1, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = logits + r * a.padded;
      const double lse = log_sum_exp(row, a.vocabulary);
      logsumexp[r] = static_cast<float>(lse);
      nll[r] = 0.0f;
      if (a.weights[r] == 0.0f) continue;  // its target may be anything
      assert(a.targets[r] >= 0 && a.targets[r] < a.vocabulary);
      nll[r] = static_cast<float>(lse - static_cast<double>(to_float(row[a.targets[r]])));
    }
  });
  double sum = a.accumulate ? *a.loss_sum : 0.0;
  for (int64_t r = 0; r < a.rows; ++r) {
    if (a.weights[r] != 0.0f) sum += static_cast<double>(a.weights[r]) * static_cast<double>(nll[r]);
  }
  *a.loss_sum = sum;
}

template <class T>
void backward_row(T* row, int64_t vocabulary, int64_t padded, int64_t target, float logsumexp, float factor) {
  if (factor == 0.0f) {
    __builtin_memset(row, 0, sizeof(T) * static_cast<size_t>(padded));
    return;
  }
  const bool here = target >= 0 && target < vocabulary;  // else another shard has it
  const double hit =
      here ? __builtin_exp(static_cast<double>(to_float(row[target])) - static_cast<double>(logsumexp)) : 0.0;
  each_vector(
      0, vocabulary, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        store(row + i, exp(load(row + i, lanes) - logsumexp) * factor, lanes);
      });
  if (here) store_one(row + target, static_cast<float>((hit - 1.0) * static_cast<double>(factor)));
  __builtin_memset(row + vocabulary, 0, sizeof(T) * static_cast<size_t>(padded - vocabulary));
}

template <class T>
void backward(const CrossEntropyBackwardArgs& a) {
  T* logits = static_cast<T*>(a.logits);
  const float* logsumexp = static_cast<const float*>(a.logsumexp);
  const double scale = *a.gradient_scale * (a.loss_scale ? *a.loss_scale : 1.0);
  const int64_t bytes = 2 * a.rows * a.padded * static_cast<int64_t>(sizeof(T));
  parallel_shares(a.rows, 1, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float factor = static_cast<float>(static_cast<double>(a.weights[r]) * scale);
      assert(factor == 0.0f || (a.targets[r] >= 0 && a.targets[r] < (a.all > 0 ? a.all : a.vocabulary)));
      backward_row(logits + r * a.padded, a.vocabulary, a.padded, a.targets[r] - a.first, logsumexp[r], factor);
    }
  });
}

template <class T>
void statistics(const CrossEntropyStatisticsArgs& a) {
  const T* logits = static_cast<const T*>(a.logits);
  float* to = static_cast<float*>(a.statistics);
  const int64_t bytes = a.rows * a.padded * static_cast<int64_t>(sizeof(T));
  parallel_shares(a.rows, 1, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = logits + r * a.padded;
      const Exponentials e = sum_exponentials(row, a.vocabulary);
      const int64_t target = a.targets[r] - a.first;
      float* out = to + r * kCrossEntropyStatistics;
      out[0] = e.top, out[1] = static_cast<float>(e.sum);
      out[2] = target >= 0 && target < a.vocabulary ? to_float(row[target]) : 0.0f;
    }
  });
}

/// Three numbers a shard and row: too little to be shared out.
void combine(const CrossEntropyCombineArgs& a) {
  const float* row = static_cast<const float*>(a.statistics);
  float *logsumexp = static_cast<float*>(a.logsumexp), *nll = static_cast<float*>(a.nll);
  double loss = a.accumulate ? *a.loss_sum : 0.0;
  for (int64_t r = 0; r < a.rows; ++r, row += a.shards * kCrossEntropyStatistics) {
    double top = -__builtin_inf(), sum = 0, target = 0;
    for (int64_t s = 0; s < a.shards; ++s) {
      const double of_shard = static_cast<double>(row[s * kCrossEntropyStatistics]);
      top = of_shard > top ? of_shard : top;
    }
    for (int64_t s = 0; s < a.shards; ++s) {
      const float* shard = row + s * kCrossEntropyStatistics;
      if (shard[1] != 0.0f) sum += static_cast<double>(shard[1]) * __builtin_exp(static_cast<double>(shard[0]) - top);
      target += static_cast<double>(shard[2]);
    }
    const double lse = top + __builtin_log(sum);
    logsumexp[r] = static_cast<float>(lse);
    nll[r] = 0.0f;
    if (a.weights[r] == 0.0f) continue;
    assert(a.targets[r] >= 0 && a.targets[r] < a.vocabulary);
    nll[r] = static_cast<float>(lse - target);
    loss += static_cast<double>(a.weights[r]) * static_cast<double>(nll[r]);
  }
  *a.loss_sum = loss;
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args) {
  with_element(args.dtype, [&](auto element) { forward<decltype(element)>(args); });
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args) {
  with_element(args.dtype, [&](auto element) { backward<decltype(element)>(args); });
}

void cross_entropy_statistics(const CrossEntropyStatisticsArgs& args) {
  with_element(args.dtype, [&](auto element) { statistics<decltype(element)>(args); });
}

void cross_entropy_combine(const CrossEntropyCombineArgs& args) { combine(args); }

}  // namespace capstan::kernels::CAPSTAN_ISA
