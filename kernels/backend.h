#pragma once
// A Backend is a typed table of function pointers, one per kernel of the contract headers, for one kind of device.
// reference/ is the oracle (plain loops, f32, f64, bf16 and f16); cpu/ is complete too and fast. The executor holds one
// Backend and never asks which. The number of threads is the caller's OpenMP setting (omp_set_num_threads), and scratch
// sizes are asked for under the same setting with which the kernel later runs. Results are the same for the same
// table, instruction set, threads and shapes.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/copy.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rotary.h"

namespace capstan::kernels {

struct Backend {
  std::string name;             ///< "reference", "cpu"
  std::string instruction_set;  ///< "plain", "sse4", "avx2", "avx512", "avx512_bf16": what runs, for the run log
  std::vector<DType> dtypes;    ///< of activations

  /// These five may hold what a library keeps between calls (handles, plans, choices), so they are not mere pointers.
  std::function<std::unique_ptr<PreparedMatmul>(const MatmulShape&)> prepare_matmul;
  /// Whether a shape that trains() gains over the product and a kernel of its own: what plans ask before they fuse.
  /// The same on all ranks of a job.
  bool (*fuses)(const MatmulShape&) = nullptr;
  size_t (*bias_gradient_scratch)(int64_t rows, int64_t n) = nullptr;
  void (*bias_gradient)(const BiasGradientArgs&) = nullptr;
  void (*activation)(const ActivationArgs&) = nullptr;
  void (*activation_backward)(const ActivationBackwardArgs&) = nullptr;
  void (*norm)(const NormArgs&) = nullptr;
  size_t (*norm_backward_scratch)(int64_t rows, int64_t width, DType dtype) = nullptr;
  void (*norm_backward)(const NormBackwardArgs&) = nullptr;
  std::function<size_t(const AttentionShape&)> attention_scratch;
  std::function<void(const AttentionArgs&)> attention;
  std::function<size_t(const AttentionShape&)> attention_backward_scratch;
  std::function<void(const AttentionBackwardArgs&)> attention_backward;
  void (*rotary)(const RotaryArgs&) = nullptr;
  void (*embedding)(const EmbeddingArgs&) = nullptr;
  size_t (*embedding_backward_scratch)(int64_t rows, int64_t entries) = nullptr;
  void (*embedding_backward)(const EmbeddingBackwardArgs&) = nullptr;
  void (*dropout)(const DropoutArgs&) = nullptr;
  void (*cross_entropy)(const CrossEntropyArgs&) = nullptr;
  void (*cross_entropy_backward)(const CrossEntropyBackwardArgs&) = nullptr;
  void (*cross_entropy_statistics)(const CrossEntropyStatisticsArgs&) = nullptr;
  void (*cross_entropy_combine)(const CrossEntropyCombineArgs&) = nullptr;
  void (*copy)(const CopyArgs&) = nullptr;
  void (*fill)(const FillArgs&) = nullptr;
  void (*add)(const AddArgs&) = nullptr;
  void (*scale)(const ScaleArgs&) = nullptr;
  void (*cast)(const CastArgs&) = nullptr;
  void (*not_finite)(const NotFiniteArgs&) = nullptr;
  void (*cache_append)(const CacheAppendArgs&) = nullptr;
  void (*begin_step)(const BeginStepArgs&) = nullptr;
  size_t (*square_sum_scratch)() = nullptr;
  void (*square_sum)(const SquareSumArgs&) = nullptr;
  void (*clip)(const ClipArgs&) = nullptr;
  void (*adamw)(const AdamWArgs&) = nullptr;
};

/// The oracle: plain loops.
Backend reference_backend();

/// oneDNN and own vector kernels. instruction_set: "" the best this processor has, or one forced by name
/// ("sse4", "avx2", "avx512", "avx512_bf16"); throws std::invalid_argument when this processor lacks it.
Backend cpu_backend(const std::string& instruction_set = "");

}  // namespace capstan::kernels
