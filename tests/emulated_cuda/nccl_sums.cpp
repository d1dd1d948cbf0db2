// Sums and maxima in the order of a ring, which differs from chunk to chunk, rounded at every hop.

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "nccl_group.h"

namespace emulated_nccl {
namespace {

template <typename T>
struct Number {
  static T load(const char* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(char* p, T v) { std::memcpy(p, &v, sizeof v); }
};
template <>
struct Number<uint16_t> {  // bf16
  static float load(const char* p) {
    uint16_t v;
    std::memcpy(&v, p, sizeof v);
    return std::bit_cast<float>(static_cast<uint32_t>(v) << 16);
  }
  static void store(char* p, float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const auto v = static_cast<uint16_t>(f != f ? 0x7fffu : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    std::memcpy(p, &v, sizeof v);
  }
};

template <typename T>
T both(T a, T b, bool max) {
  if (max) {
    if constexpr (std::is_floating_point_v<T>)
      return std::fmax(a, b);  // drops NaN
    else
      return a > b ? a : b;
  }
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  else
    return static_cast<T>(a + b);
}

/// Elements [first, first + count) of the result. Ranks add one after another from the one whose chunk it is.
template <typename T>
void reduce_range(const Round& round, size_t first, size_t count, size_t total, bool max, char* to) {
  std::vector<const char*> inputs;
  for (const auto& [rank, input] : round.inputs) inputs.push_back(input.data());
  const size_t ranks = inputs.size();
  for (size_t i = first; i < first + count; ++i, to += sizeof(T)) {
    const size_t start = i * ranks / total + 1;
    std::memcpy(to, inputs[start % ranks] + i * sizeof(T), sizeof(T));
    for (size_t step = 1; step < ranks; ++step) {
      const char* next = inputs[(start + step) % ranks] + i * sizeof(T);
      Number<T>::store(to, both(Number<T>::load(to), Number<T>::load(next), max));
    }
  }
}

}  // namespace

size_t size_of(ncclDataType_t type) {
  constexpr size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return sizes[type];
}

void reduce(const Round& round, size_t first, size_t count, size_t total, char* to) {
  const bool max = round.signature.op == ncclMax;
  switch (round.signature.type) {
    case ncclFloat64:
      return reduce_range<double>(round, first, count, total, max, to);
    case ncclFloat32:
      return reduce_range<float>(round, first, count, total, max, to);
    case ncclBfloat16:
      return reduce_range<uint16_t>(round, first, count, total, max, to);
    case ncclFloat16:
      return reduce_range<_Float16>(round, first, count, total, max, to);
    case ncclInt64:
      return reduce_range<int64_t>(round, first, count, total, max, to);
    default:
      return reduce_range<int32_t>(round, first, count, total, max, to);
  }
}

}  // namespace emulated_nccl
