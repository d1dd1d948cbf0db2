// One thread sums one pack of elements over all ranks: 16 bytes where all pointers allow it, else one element. The tree
// is folded like the carries of a binary counter: after r + 1 leaves a partial sum waits for every bit of r + 1, and
// what is left at the end is added from the narrowest to the widest.
#include "kernels/cuda/reduce_tree.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>
#include <type_traits>

#include "kernels/cuda/launch.cuh"

namespace capstan::kernels::cuda {
namespace {

constexpr int kReduceLevels = 20;  // of the tree: a million ranks

/// How an element is stored and how it is summed. Integers are added as unsigned, so that sums wrap.
template <typename T>
struct Summed {
  using Partial = T;
  CAPSTAN_HOST_DEVICE static Partial load(T v) { return v; }
  CAPSTAN_HOST_DEVICE static T store(Partial v) { return v; }
};
template <>
struct Summed<__nv_bfloat16> {
  using Partial = float;
  CAPSTAN_HOST_DEVICE static Partial load(__nv_bfloat16 v) { return __bfloat162float(v); }
  CAPSTAN_HOST_DEVICE static __nv_bfloat16 store(Partial v) { return __float2bfloat16_rn(v); }
};
template <>
struct Summed<__half> {
  using Partial = float;
  CAPSTAN_HOST_DEVICE static Partial load(__half v) { return __half2float(v); }
  CAPSTAN_HOST_DEVICE static __half store(Partial v) { return __float2half_rn(v); }
};

template <typename P>
CAPSTAN_HOST_DEVICE P combine(P a, P b, bool max) {
  if (max) return a > b || a != a ? a : b;  // a NaN on either side is the result
  if constexpr (std::is_integral_v<P>)
    return static_cast<P>(static_cast<std::make_unsigned_t<P>>(a) + static_cast<std::make_unsigned_t<P>>(b));
  else
    return a + b;
}

template <typename T, int N>
struct alignas(N == 1 ? sizeof(T) : 16) Pack {
  T element[N];
};

struct Sources {
  const char* inputs;
  size_t stride;
  const char* own_input;
  int ranks, own;
  bool max;
};

template <typename T, int N>
CAPSTAN_HOST_DEVICE void reduce_pack(const Sources& from, T* out, int64_t pack) {
  using P = typename Summed<T>::Partial;
  P waiting[kReduceLevels + 1][N];
  const size_t at = static_cast<size_t>(pack) * N * sizeof(T);
  for (int r = 0; r < from.ranks; ++r) {
    const char* input = r == from.own ? from.own_input : from.inputs + static_cast<size_t>(r) * from.stride;
    const Pack<T, N> leaf = *reinterpret_cast<const Pack<T, N>*>(input + at);
    P sum[N];
    for (int i = 0; i < N; ++i) sum[i] = Summed<T>::load(leaf.element[i]);
    int level = 0;
    for (; (r >> level) & 1; ++level)
      for (int i = 0; i < N; ++i) sum[i] = combine(waiting[level][i], sum[i], from.max);
    for (int i = 0; i < N; ++i) waiting[level][i] = sum[i];
  }
  int level = 0;
  while (!((from.ranks >> level) & 1)) ++level;
  P total[N];
  for (int i = 0; i < N; ++i) total[i] = waiting[level][i];
  for (++level; level <= kReduceLevels; ++level)
    if ((from.ranks >> level) & 1)
      for (int i = 0; i < N; ++i) total[i] = combine(waiting[level][i], total[i], from.max);
  Pack<T, N> sum;
  for (int i = 0; i < N; ++i) sum.element[i] = Summed<T>::store(total[i]);
  reinterpret_cast<Pack<T, N>*>(out)[pack] = sum;
}

template <typename T, int N>
__global__ void reduce_tree_kernel(Sources from, T* out, int64_t packs) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < packs; i += step)
    reduce_pack<T, N>(from, out, i);
}

bool aligned_to_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <typename T, int N>
void run_packs(const ReduceTreeArgs& a, int64_t first, int64_t packs) {
  if (packs <= 0) return;
  const size_t skip = static_cast<size_t>(first) * sizeof(T);
  const Sources from{static_cast<const char*>(a.inputs) + skip,
                     a.stride,
                     static_cast<const char*>(a.own_input) + (a.own_input != nullptr ? skip : 0),
                     a.ranks,
                     a.own,
                     a.max};
  launch(reduce_tree_kernel<T, N>, dim3(blocks_for(packs, 256)), dim3(256), 0, a.stream, from,
         static_cast<T*>(a.out) + first, packs);
}

template <typename T>
void run_type(const ReduceTreeArgs& a) {
  constexpr int kPerPack = static_cast<int>(16 / sizeof(T));
  const bool wide = aligned_to_16(a.inputs) && a.stride % 16 == 0 && aligned_to_16(a.own_input) && aligned_to_16(a.out);
  const int64_t packs = wide ? a.count / kPerPack : 0;
  run_packs<T, kPerPack>(a, 0, packs);
  run_packs<T, 1>(a, packs * kPerPack, a.count - packs * kPerPack);
}

}  // namespace

void reduce_tree(const ReduceTreeArgs& args) {
  if (args.ranks < 1 || args.ranks >> kReduceLevels > 0)
    throw std::invalid_argument("sum over ranks: wanted 1 to 2^20 of them, got " + std::to_string(args.ranks));
  switch (args.dtype) {
    case DType::f64:
      return run_type<double>(args);
    case DType::f32:
      return run_type<float>(args);
    case DType::bf16:
      return run_type<__nv_bfloat16>(args);
    case DType::f16:
      return run_type<__half>(args);
    case DType::i64:
      return run_type<int64_t>(args);
    case DType::i32:
      return run_type<int32_t>(args);
    default:
      throw std::invalid_argument(std::string("sum over ranks: wanted f64, f32, bf16, f16, i64 or i32, got ") +
                                  name_of(args.dtype));
  }
}

}  // namespace capstan::kernels::cuda
