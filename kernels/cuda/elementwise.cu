// Addition, scaling and casts: exact to the bit, as on every backend.

#include "kernels/elementwise.h"

#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/element.cuh"

namespace capstan::kernels::cuda {
namespace {

template <typename T>
struct AddPass {
  const T *a, *b;
  T* y;
  int64_t row;  ///< elements after which b begins anew; 0: never

  template <int N>
  __device__ void run(int64_t i) const {
    float u[N], v[N];
    load_pack(a + i, u);
    load_pack(b + (row > 0 ? i % row : i), v);
#pragma unroll
    for (int j = 0; j < N; ++j) u[j] += v[j];
    store_pack(y + i, u);
  }
};

template <typename T>
struct ScalePass {
  const T* x;
  T* y;
  float factor;

  template <int N>
  __device__ void run(int64_t i) const {
    float v[N];
    load_pack(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] *= factor;
    store_pack(y + i, v);
  }
};

template <typename From, typename To>
struct CastPass {
  const From* x;
  To* y;

  template <int N>
  __device__ void run(int64_t i) const {
    float v[N];
    load_pack(x + i, v);
    store_pack(y + i, v);
  }
};

__global__ void not_finite_kernel(NotFiniteArgs a) { *a.flag = fabs(*a.value) < INFINITY ? 0.0 : 1.0; }

}  // namespace

void add(const AddArgs& args) {
  with_element(args.dtype, "add", [&]<typename T>(T) {
    const AddPass<T> pass{static_cast<const T*>(args.a), static_cast<const T*>(args.b), static_cast<T*>(args.y),
                          args.rows > 1 ? args.count : 0};
    const bool by_packs = aligned({args.a, args.b, args.y}) && (args.rows == 1 || args.count % kPack<T> == 0);
    each_element<kPack<T>>(pass, args.rows * args.count, by_packs, args.stream);
  });
}

void scale(const ScaleArgs& args) {
  with_element(args.dtype, "scale", [&]<typename T>(T) {
    const ScalePass<T> pass{static_cast<const T*>(args.x), static_cast<T*>(args.y), static_cast<float>(args.factor)};
    each_element<kPack<T>>(pass, args.count, aligned({args.x, args.y}), args.stream);
  });
}

void cast(const CastArgs& args) {
  with_element(args.from, "cast", [&]<typename From>(From) {
    with_element(args.to, "cast", [&]<typename To>(To) {
      const CastPass<From, To> pass{static_cast<const From*>(args.x), static_cast<To*>(args.y)};
      each_element<8>(pass, args.count, aligned({args.x, args.y}), args.stream);
    });
  });
}

void not_finite(const NotFiniteArgs& args) { launch(not_finite_kernel, dim3(1), dim3(1), 0, args.stream, args); }

}  // namespace capstan::kernels::cuda
