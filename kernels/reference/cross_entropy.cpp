#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

template <typename T>
Accumulation<T> log_sum_exp(const T* x, int64_t n) {
  using A = Accumulation<T>;
  A highest = load(x[0]), sum = 0;
  for (int64_t i = 1; i < n; ++i) highest = std::max(highest, load(x[i]));
  for (int64_t i = 0; i < n; ++i) sum += std::exp(load(x[i]) - highest);
  return highest + std::log(sum);
}

void check_target(int32_t target, int64_t row, int64_t vocabulary) {
  if (target < 0 || target >= vocabulary) {
    throw std::out_of_range("cross_entropy: target " + std::to_string(target) + " in row " + std::to_string(row) +
                            " is outside a vocabulary of " + std::to_string(vocabulary));
  }
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args) {
  with_element(args.dtype, "cross_entropy", [&]<typename T>(T) {
    using A = Accumulation<T>;
    double sum = args.accumulate ? *args.loss_sum : 0.0;
    for (int64_t r = 0; r < args.rows; ++r) {
      const T* logits = in<T>(args.logits) + r * args.padded;
      const A logsumexp = log_sum_exp(logits, args.vocabulary);
      out<A>(args.logsumexp)[r] = logsumexp;
      out<A>(args.nll)[r] = A(0);
      if (args.weights[r] == 0.0f) continue;  // its target may be anything
      check_target(args.targets[r], r, args.vocabulary);
      const A nll = logsumexp - load(logits[args.targets[r]]);
      out<A>(args.nll)[r] = nll;
      sum += static_cast<double>(args.weights[r]) * static_cast<double>(nll);
    }
    *args.loss_sum = sum;
  });
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args) {
  with_element(args.dtype, "cross_entropy_backward", [&]<typename T>(T) {
    using A = Accumulation<T>;
    const double scale = *args.gradient_scale * (args.loss_scale ? *args.loss_scale : 1.0);
    for (int64_t r = 0; r < args.rows; ++r) {
      T* row = out<T>(args.logits) + r * args.padded;
      const bool counts = args.weights[r] != 0.0f;
      const A factor = A(static_cast<double>(args.weights[r]) * scale);
      const A logsumexp = in<A>(args.logsumexp)[r];
      if (counts) check_target(args.targets[r], r, args.all > 0 ? args.all : args.vocabulary);
      for (int64_t i = 0; i < args.padded; ++i) {
        if (!counts || i >= args.vocabulary) {
          store(row[i], A(0));
        } else {
          store(row[i], (std::exp(load(row[i]) - logsumexp) - A(i + args.first == args.targets[r] ? 1 : 0)) * factor);
        }
      }
    }
  });
}

void cross_entropy_statistics(const CrossEntropyStatisticsArgs& args) {
  with_element(args.dtype, "cross_entropy_statistics", [&]<typename T>(T) {
    using A = Accumulation<T>;
    for (int64_t r = 0; r < args.rows; ++r) {
      const T* logits = in<T>(args.logits) + r * args.padded;
      A* statistics = out<A>(args.statistics) + r * kCrossEntropyStatistics;
      A highest = -std::numeric_limits<A>::infinity(), sum = 0;
      for (int64_t i = 0; i < args.vocabulary; ++i) highest = std::max(highest, load(logits[i]));
      for (int64_t i = 0; i < args.vocabulary; ++i) sum += std::exp(load(logits[i]) - highest);
      const int64_t target = int64_t{args.targets[r]} - args.first;
      statistics[0] = highest, statistics[1] = sum;
      statistics[2] = target >= 0 && target < args.vocabulary ? load(logits[target]) : A(0);
    }
  });
}

void cross_entropy_combine(const CrossEntropyCombineArgs& args) {
  with_element(args.dtype, "cross_entropy_combine", [&]<typename T>(T) {
    using A = Accumulation<T>;
    double loss = args.accumulate ? *args.loss_sum : 0.0;
    for (int64_t r = 0; r < args.rows; ++r) {
      const A* row = in<A>(args.statistics) + r * args.shards * kCrossEntropyStatistics;
      A highest = -std::numeric_limits<A>::infinity(), sum = 0, target = 0;
      for (int64_t s = 0; s < args.shards; ++s) highest = std::max(highest, row[s * kCrossEntropyStatistics]);
      for (int64_t s = 0; s < args.shards; ++s) {
        const A* shard = row + s * kCrossEntropyStatistics;
        if (shard[1] != A(0)) sum += shard[1] * std::exp(shard[0] - highest);
        target += shard[2];
      }
      const A logsumexp = highest + std::log(sum);
      out<A>(args.logsumexp)[r] = logsumexp;
      out<A>(args.nll)[r] = A(0);
      if (args.weights[r] == 0.0f) continue;
      check_target(args.targets[r], r, args.vocabulary);
      out<A>(args.nll)[r] = logsumexp - target;
      loss += static_cast<double>(args.weights[r]) * static_cast<double>(logsumexp - target);
    }
    *args.loss_sum = loss;
  });
}

}  // namespace capstan::kernels::reference
