#pragma once
// Cross-entropy of logits against targets, without a second copy of the logits.
//   nll_r = logsumexp(logits[r, :vocabulary]) - logits[r, target_r];    loss_sum += sum_r weight_r nll_r   (in double)
// Backward writes into the logits: dlogits = (softmax - onehot) weight_r gradient_scale loss_scale; padded columns
// become 0. The two scales are data in memory: 1 / (global sum of weights), from the host, and what kernels/optimizer.h
// says of the loss scale.
// Over shards of the vocabulary: a shard holds columns [first, first + padded) of the logits, of which the first
// `vocabulary` mean something (perhaps none). Each shard reduces a row to three numbers (its maximum, the sum of
// exp(x - maximum), the target's logit or 0); the rows of numbers of all shards side by side give logsumexp and nll.

#include <cstdint>

#include "kernels/types.h"

namespace capstan::kernels {

struct CrossEntropyArgs {
  const void* logits = nullptr;      ///< [rows, padded] of dtype
  const int32_t* targets = nullptr;  ///< [rows]
  const float* weights = nullptr;    ///< [rows]; a row of weight 0 adds nothing whatever its target
  void* logsumexp = nullptr;         ///< [rows] in accumulation_of(dtype)
  void* nll = nullptr;               ///< [rows] in accumulation_of(dtype): unweighted
  double* loss_sum = nullptr;        ///< [1], (=|+=) weighted sum over rows in ascending order
  bool accumulate = false;           ///< for loss_sum
  int64_t rows = 0, vocabulary = 0, padded = 0;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

struct CrossEntropyBackwardArgs {
  void* logits = nullptr;  ///< in: logits, out: gradient
  const int32_t* targets = nullptr;
  const float* weights = nullptr;
  const void* logsumexp = nullptr;
  const double* gradient_scale = nullptr;  ///< [1]
  int64_t rows = 0, vocabulary = 0, padded = 0;
  DType dtype = DType::f32;
  int64_t first = 0, all = 0;          ///< of a shard: id of column 0, whole vocabulary; all = 0: the logits are whole
  const double* loss_scale = nullptr;  ///< [1]; none: 1
  Stream stream = nullptr;
};

constexpr int64_t kCrossEntropyStatistics = 3;

struct CrossEntropyStatisticsArgs {
  const void* logits = nullptr;      ///< [rows, padded] of dtype: a shard
  const int32_t* targets = nullptr;  ///< [rows], ids of the whole vocabulary; none of this shard where out of range
  void* statistics = nullptr;        ///< [rows, kCrossEntropyStatistics] in accumulation_of(dtype)
  int64_t rows = 0, vocabulary = 0, padded = 0, first = 0;
  DType dtype = DType::f32;
  Stream stream = nullptr;
};

struct CrossEntropyCombineArgs {
  const void* statistics = nullptr;  ///< [rows, shards, kCrossEntropyStatistics] in accumulation_of(dtype)
  const int32_t* targets = nullptr;
  const float* weights = nullptr;
  void* logsumexp = nullptr;
  void* nll = nullptr;
  double* loss_sum = nullptr;
  bool accumulate = false;  ///< for loss_sum
  int64_t rows = 0, shards = 0, vocabulary = 0;
  DType dtype = DType::f32;  ///< of the logits
  Stream stream = nullptr;
};

}  // namespace capstan::kernels
