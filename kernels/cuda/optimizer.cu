// AdamW over flat state, the sum of squares and clipping. All that varies from step to step is read from memory, so a
// captured step can be replayed.

#include "kernels/optimizer.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int64_t kMostPartials = 1024;  ///< blocks that form a sum of squares

template <typename W>
struct AdamWPass {
  float *parameter, *moment1, *moment2;
  const float* gradient;
  W* working;
  const StepScalars* scalars;
  float beta1, beta2, rest1, rest2, epsilon;
  double weight_decay;

  template <int N>
  __device__ void run(int64_t i) const {
    if (scalars->skip != 0.0) return;
    const auto rate = static_cast<float>(scalars->learning_rate);
    const auto shrink = static_cast<float>(1.0 - scalars->learning_rate * weight_decay);
    const auto correction1 = static_cast<float>(scalars->correction1);
    const auto correction2 = static_cast<float>(scalars->correction2);
    const auto clip_scale = static_cast<float>(scalars->clip_scale);
    float p[N], m[N], v[N], gradients[N];
    load_pack(parameter + i, p);
    load_pack(moment1 + i, m);
    load_pack(moment2 + i, v);
    load_pack(gradient + i, gradients);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float g = gradients[j] * clip_scale;
      m[j] = beta1 * m[j] + rest1 * g;
      v[j] = beta2 * v[j] + rest2 * g * g;
      p[j] = shrink * p[j] - rate * (m[j] / correction1) / (sqrtf(v[j] / correction2) + epsilon);
    }
    store_pack(parameter + i, p);
    store_pack(moment1 + i, m);
    store_pack(moment2 + i, v);
    if (working != nullptr) store_pack(working + i, p);
  }
};

/// Each thread walks packs of N elements whether or not they can be loaded as such: the order depends on count alone.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    square_sum_kernel(const T* x, double* partials, int64_t count, bool by_packs) {
  __shared__ double shared[kMostWarps];
  constexpr int kN = kPack<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBlock * kN;
  double sum = 0.0;
#pragma unroll 2
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) * kN; i < count; i += stride) {
    float v[kN];
    if (by_packs && i + kN <= count) {
      load_pack(x + i, v);
    } else {
#pragma unroll
      for (int j = 0; j < kN; ++j) v[j] = i + j < count ? to_float(x[i + j]) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kN; ++j) sum = fma(static_cast<double>(v[j]), static_cast<double>(v[j]), sum);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlock)
    add_square_sums_kernel(const double* partials, int count, const double* weight, double* sum, bool accumulate) {
  __shared__ double shared[kMostWarps];
  double mine = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kBlock) mine += partials[i];
  const double all = block_sum(mine, shared) * (weight != nullptr ? *weight : 1.0);
  if (threadIdx.x == 0) *sum = accumulate ? *sum + all : all;
}

__global__ void begin_step_kernel(BeginStepArgs a) {
  const double t = a.scalars->updates + 1.0;
  start_step(*a.scalars, *a.weights, pow(a.beta1, t), pow(a.beta2, t), a.own_weight);
}

/// The block brings the sums into shared memory; one thread adds them in ascending order and decides.
__global__ void __launch_bounds__(kBlock) clip_kernel(ClipArgs a) {
  __shared__ double sums[kBlock];
  double sum = 0.0;
  for (int64_t first = 0; first < a.count; first += kBlock) {
    __syncthreads();
    if (first + threadIdx.x < a.count) sums[threadIdx.x] = a.square_sums[first + threadIdx.x];
    __syncthreads();
    for (int i = 0; threadIdx.x == 0 && i < kBlock && first + i < a.count; ++i) sum += sums[i];
  }
  if (threadIdx.x == 0) decide_step(*a.scalars, sqrt(sum));
}

}  // namespace

void begin_step(const BeginStepArgs& args) { launch(begin_step_kernel, dim3(1), dim3(1), 0, args.stream, args); }

size_t square_sum_scratch() { return kMostPartials * sizeof(double); }

void square_sum(const SquareSumArgs& args) {
  auto* partials = static_cast<double*>(args.scratch);
  with_element(args.dtype, "square_sum", [&]<typename T>(T) {
    const unsigned blocks = blocks_for(args.count, int64_t{kBlock} * kPack<T> * 2, kMostPartials);
    launch(square_sum_kernel<T>, dim3(blocks), dim3(kBlock), 0, args.stream, static_cast<const T*>(args.x), partials,
           args.count, aligned({args.x}));
    launch(add_square_sums_kernel, dim3(1), dim3(kBlock), 0, args.stream, partials, static_cast<int>(blocks),
           args.weight, args.sum, args.accumulate);
  });
}

void clip(const ClipArgs& args) { launch(clip_kernel, dim3(1), dim3(kBlock), 0, args.stream, args); }

void adamw(const AdamWArgs& args) {
  if (args.dtype != DType::f32) {
    throw std::invalid_argument(std::string("adamw: the CUDA kernels hold masters in f32, not in ") +
                                name_of(args.dtype));
  }
  with_element(args.working ? args.working_dtype : DType::f32, "adamw", [&]<typename W>(W) {
    const AdamWPass<W> pass{static_cast<float*>(args.parameter),  static_cast<float*>(args.moment1),
                            static_cast<float*>(args.moment2),    static_cast<const float*>(args.gradient),
                            static_cast<W*>(args.working),        args.scalars,
                            static_cast<float>(args.beta1),       static_cast<float>(args.beta2),
                            static_cast<float>(1.0 - args.beta1), static_cast<float>(1.0 - args.beta2),
                            static_cast<float>(args.epsilon),     args.weight_decay};
    const bool by_packs = aligned({args.parameter, args.moment1, args.moment2, args.gradient}) &&
                          aligned({args.working}, std::min<size_t>(16, 4 * sizeof(W)));
    each_element<4>(pass, args.count, by_packs, args.stream);
  });
}

}  // namespace capstan::kernels::cuda
