// Activations, plain and gated: one pass over memory; which function it is, is asked in the kernel.

#include "kernels/activation.h"

#include "kernels/cuda/activation_math.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/element.cuh"

namespace capstan::kernels::cuda {
namespace {

template <typename T>
struct ActivationPass {
  ActivationKind kind;
  const T *x, *up;
  T* y;

  template <int N>
  __device__ void run(int64_t i) const {
    float v[N], u[N];
    load_pack(x + i, v);
    if (up != nullptr) load_pack(up + i, u);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float value = activation_value(kind, v[j]);
      v[j] = up != nullptr ? value * u[j] : value;
    }
    store_pack(y + i, v);
  }
};

template <typename T>
struct ActivationBackwardPass {
  ActivationKind kind;
  const T *x, *up, *dy;
  T *dx, *dup;

  template <int N>
  __device__ void run(int64_t i) const {
    float v[N], u[N], g[N];  // all read before dx or dup, either of which may be dy
    load_pack(x + i, v);
    load_pack(dy + i, g);
    if (up != nullptr) {
      load_pack(up + i, u);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float slope = activation_derivative(kind, v[j]), value = activation_value(kind, v[j]);
        v[j] = slope * u[j] * g[j];
        g[j] = value * g[j];
      }
      store_pack(dup + i, g);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = activation_derivative(kind, v[j]) * g[j];
    }
    store_pack(dx + i, v);
  }
};

}  // namespace

void activation(const ActivationArgs& args) {
  with_element(args.dtype, "activation", [&]<typename T>(T) {
    const ActivationPass<T> pass{args.kind, static_cast<const T*>(args.x), static_cast<const T*>(args.up),
                                 static_cast<T*>(args.y)};
    each_element<kPack<T>>(pass, args.count, aligned({args.x, args.up, args.y}), args.stream);
  });
}

void activation_backward(const ActivationBackwardArgs& args) {
  with_element(args.dtype, "activation_backward", [&]<typename T>(T) {
    const ActivationBackwardPass<T> pass{args.kind,
                                         static_cast<const T*>(args.x),
                                         static_cast<const T*>(args.up),
                                         static_cast<const T*>(args.dy),
                                         static_cast<T*>(args.dx),
                                         static_cast<T*>(args.dup)};
    const bool by_packs = aligned({args.x, args.up, args.dy, args.dx, args.dup});
    each_element<kPack<T>>(pass, args.count, by_packs, args.stream);
  });
}

}  // namespace capstan::kernels::cuda
