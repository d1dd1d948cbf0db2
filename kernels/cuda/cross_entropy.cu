// Cross-entropy. A block reads a row of logits once: each thread keeps a running maximum and the sum of exponentials
// relative to it, and these pairs are merged in a fixed order. Sums over rows are formed in double by one block, in an
// order fixed by the number of rows.

#include "kernels/cross_entropy.h"

#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int kLossThreads = 1024;

/// The maximum of some numbers and the sum of exp(x - maximum); of none: -inf and 0.
struct RunningSum {
  float highest, sum;

  __device__ void merge(float other_highest, float other_sum) {
    const float top = fmaxf(highest, other_highest);
    if (top == -INFINITY) {
      sum += other_sum;  // nothing yet, or nothing but NaN, which stays
      return;
    }
    sum = sum * expf(highest - top) + other_sum * expf(other_highest - top);
    highest = top;
  }
};

/// The pair of all threads of the block, in thread 0. shared: kMostWarps pairs.
__device__ RunningSum merge_block(RunningSum mine, RunningSum* shared) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float highest = __shfl_xor_sync(kAllLanes, mine.highest, offset);
    const float sum = __shfl_xor_sync(kAllLanes, mine.sum, offset);
    mine.merge(highest, sum);
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) shared[warp] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int other = 1; other < static_cast<int>(blockDim.x) / kWarp; ++other) {
      mine.merge(shared[other].highest, shared[other].sum);
    }
  }
  return mine;
}

template <typename T, int N>
__device__ RunningSum sum_row(const T* logits, int64_t vocabulary) {
  RunningSum mine{-INFINITY, 0.0f};
#pragma unroll 2
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < vocabulary; i += static_cast<int64_t>(blockDim.x) * N) {
    float v[N];
    load_pack(logits + i, v);  // the row has `padded` elements, whole packs of them
    float top = mine.highest;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (i + j >= vocabulary) v[j] = -INFINITY;
      top = fmaxf(top, v[j]);
    }
    float sum = 0;
    const float base = top == -INFINITY ? 0.0f : top;  // exp(-inf) is 0, and NaN stays NaN
#pragma unroll
    for (int j = 0; j < N; ++j) sum += expf(v[j] - base);
    mine.merge(top, sum);
  }
  return mine;
}

/// What the rows of a loss have in common, whether it is formed from whole logits or from shards.
struct RowLoss {
  const int32_t* targets;
  const float* weights;
  float *logsumexp, *nll;
  int64_t vocabulary;

  __device__ bool counts(int64_t row) const { return weights[row] != 0.0f; }
  /// A target that is outside the vocabulary is our own fault; its loss is NaN, which stops the run.
  __device__ void write(int64_t row, float total, float target_logit) const {
    logsumexp[row] = total;
    const bool known = targets[row] >= 0 && targets[row] < vocabulary;
    nll[row] = !counts(row) ? 0.0f : known ? total - target_logit : NAN;
  }
};

template <typename T, int N>
__global__ void __launch_bounds__(kLossThreads) cross_entropy_kernel(CrossEntropyArgs a, RowLoss loss) {
  __shared__ RunningSum shared[kMostWarps];
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(a.logits) + row * a.padded;
  const RunningSum all = merge_block(sum_row<T, N>(logits, a.vocabulary), shared);
  if (threadIdx.x != 0) return;
  const int64_t target = a.targets[row];
  loss.write(row, all.highest + logf(all.sum), target >= 0 && target < a.vocabulary ? to_float(logits[target]) : 0.0f);
}

template <typename T, int N>
__global__ void __launch_bounds__(kLossThreads) statistics_kernel(CrossEntropyStatisticsArgs a) {
  __shared__ RunningSum shared[kMostWarps];
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(a.logits) + row * a.padded;
  const RunningSum all = merge_block(sum_row<T, N>(logits, a.vocabulary), shared);
  if (threadIdx.x != 0) return;
  float* statistics = static_cast<float*>(a.statistics) + row * kCrossEntropyStatistics;
  const int64_t target = int64_t{a.targets[row]} - a.first;
  statistics[0] = all.highest;
  statistics[1] = all.sum;
  statistics[2] = target >= 0 && target < a.vocabulary ? to_float(logits[target]) : 0.0f;
}

__global__ void __launch_bounds__(kBlock) combine_kernel(CrossEntropyCombineArgs a, RowLoss loss) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (row >= a.rows) return;
  const float* shards = static_cast<const float*>(a.statistics) + row * a.shards * kCrossEntropyStatistics;
  RunningSum all{-INFINITY, 0.0f};
  float target = 0.0f;
  for (int64_t s = 0; s < a.shards; ++s, shards += kCrossEntropyStatistics) {
    all.merge(shards[0], shards[1]);
    target += shards[2];
  }
  loss.write(row, all.highest + logf(all.sum), target);
}

/// sum (=|+=) weights . nll
__global__ void __launch_bounds__(kLossThreads)
    sum_loss_kernel(const float* weights, const float* nll, double* sum, int64_t rows, bool accumulate) {
  __shared__ double shared[kMostWarps];
  double mine = 0.0;
#pragma unroll 4
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) {
    if (weights[r] != 0.0f) mine += static_cast<double>(weights[r]) * static_cast<double>(nll[r]);
  }
  const double all = block_sum(mine, shared);
  if (threadIdx.x == 0) *sum = accumulate ? *sum + all : all;
}

template <typename T, int N>
__global__ void __launch_bounds__(kLossThreads) cross_entropy_backward_kernel(CrossEntropyBackwardArgs a) {
  const int64_t row = blockIdx.x;
  T* logits = static_cast<T*>(a.logits) + row * a.padded;
  const float weight = a.weights[row], logsumexp = static_cast<const float*>(a.logsumexp)[row];
  const double scale = *a.gradient_scale * (a.loss_scale != nullptr ? *a.loss_scale : 1.0);
  const auto factor = static_cast<float>(static_cast<double>(weight) * scale);
  const int64_t target = a.targets[row] - a.first, meant = weight != 0.0f ? a.vocabulary : 0;
#pragma unroll 2
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < a.padded; i += static_cast<int64_t>(blockDim.x) * N) {
    float v[N];
    load_pack(logits + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float probability = expf(v[j] - logsumexp);
      v[j] = i + j < meant ? (probability - (i + j == target ? 1.0f : 0.0f)) * factor : 0.0f;
    }
    store_pack(logits + i, v);
  }
}

/// Threads for a row of `columns`: a few packs each.
unsigned threads_for(int64_t columns, int pack) {
  unsigned threads = 64;
  while (threads < 512 && threads * pack * 4 < columns) threads *= 2;
  return threads;
}

template <typename T, typename Args>
bool in_packs(const Args& a) {
  return a.padded % kPack<T> == 0 && aligned({a.logits});
}

RowLoss row_loss(const int32_t* targets, const float* weights, void* logsumexp, void* nll, int64_t vocabulary) {
  return {targets, weights, static_cast<float*>(logsumexp), static_cast<float*>(nll), vocabulary};
}

void sum_loss(const RowLoss& loss, double* sum, int64_t rows, bool accumulate, Stream stream) {
  const unsigned threads = rows < kLossThreads ? kBlock : kLossThreads;
  launch(sum_loss_kernel, dim3(1), dim3(threads), 0, stream, loss.weights, loss.nll, sum, rows, accumulate);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args) {
  const RowLoss loss = row_loss(args.targets, args.weights, args.logsumexp, args.nll, args.vocabulary);
  with_element(args.dtype, "cross_entropy", [&]<typename T>(T) {
    const auto run = [&](auto kernel, int pack) {
      launch(kernel, dim3(static_cast<unsigned>(args.rows)), dim3(threads_for(args.padded, pack)), 0, args.stream, args,
             loss);
    };
    if (in_packs<T>(args)) {
      run(&cross_entropy_kernel<T, kPack<T>>, kPack<T>);
    } else {
      run(&cross_entropy_kernel<T, 1>, 1);
    }
  });
  sum_loss(loss, args.loss_sum, args.rows, args.accumulate, args.stream);
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args) {
  with_element(args.dtype, "cross_entropy_backward", [&]<typename T>(T) {
    const auto run = [&](auto kernel, int pack) {
      launch(kernel, dim3(static_cast<unsigned>(args.rows)), dim3(threads_for(args.padded, pack)), 0, args.stream,
             args);
    };
    if (in_packs<T>(args)) {
      run(&cross_entropy_backward_kernel<T, kPack<T>>, kPack<T>);
    } else {
      run(&cross_entropy_backward_kernel<T, 1>, 1);
    }
  });
}

void cross_entropy_statistics(const CrossEntropyStatisticsArgs& args) {
  with_element(args.dtype, "cross_entropy_statistics", [&]<typename T>(T) {
    const auto run = [&](auto kernel, int pack) {
      launch(kernel, dim3(static_cast<unsigned>(args.rows)), dim3(threads_for(args.padded, pack)), 0, args.stream,
             args);
    };
    if (in_packs<T>(args)) {
      run(&statistics_kernel<T, kPack<T>>, kPack<T>);
    } else {
      run(&statistics_kernel<T, 1>, 1);
    }
  });
}

void cross_entropy_combine(const CrossEntropyCombineArgs& args) {
  const RowLoss loss = row_loss(args.targets, args.weights, args.logsumexp, args.nll, args.vocabulary);
  launch(combine_kernel, dim3(static_cast<unsigned>(divided_up(args.rows, kBlock))), dim3(kBlock), 0, args.stream, args,
         loss);
  sum_loss(loss, args.loss_sum, args.rows, args.accumulate, args.stream);
}

}  // namespace capstan::kernels::cuda
