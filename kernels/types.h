#pragma once
// Element types. A dtype is a value everywhere above kernels/; templates on the element type stop inside kernels/.

#include <bit>
#include <cstddef>
#include <cstdint>

namespace capstan {

enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u32, u16, u8 };

constexpr size_t bytes_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::u16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  constexpr const char* names[] = {"f64", "f32", "bf16", "f16", "i64", "i32", "u32", "u16", "u8"};
  return static_cast<size_t>(t) < sizeof(names) / sizeof(names[0]) ? names[static_cast<int>(t)] : "no dtype";
}

constexpr bool is_floating(DType t) { return t <= DType::f16; }

/// The dtype in which sums, statistics (mean, rstd, logsumexp), gradients of parameters and masters are held.
constexpr DType accumulation_of(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

namespace kernels {
/// Where a kernel of a GPU is queued (cudaStream_t); backends of the host ignore it and are done when they return.
using Stream = void*;
}  // namespace kernels

/// bfloat16: the upper half of a float; rounded to nearest even, NaN kept quiet.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float v) {
    const uint32_t u = std::bit_cast<uint32_t>(v);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40u)
                                           : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

/// IEEE half precision: 5 bits of exponent, 10 of fraction; rounded to nearest even, subnormals exact, from 65520 on
/// infinite, NaN kept quiet.
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  explicit constexpr Float16(float v) {
    const uint32_t all = std::bit_cast<uint32_t>(v), sign = (all >> 16) & 0x8000u, rest = all & 0x7fffffffu;
    uint32_t rounded = 0;
    if (rest > 0x7f800000u) {
      rounded = 0x7e00u | ((rest >> 13) & 0x3ffu);
    } else if (rest >= 0x477ff000u) {
      rounded = 0x7c00u;
    } else if (rest < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, the last bit of a float in [0.5, 1)
      rounded = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
    } else {
      const uint32_t rebased = rest - ((127u - 15u) << 23);
      rounded = (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13;
    }
    bits = static_cast<uint16_t>(sign | rounded);
  }
  explicit constexpr operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    if (rest >= 0x0400u) return std::bit_cast<float>(sign | ((rest << 13) + ((127u - 15u) << 23)));
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(rest) * 0x1p-24f));
  }
};

}  // namespace capstan
