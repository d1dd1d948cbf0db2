#pragma once
// Random numbers addressed by (seed, stream, index) through a mixing function: what replicate 17 draws does not depend
// on which thread draws it or on what was drawn before.

#include <cmath>
#include <cstdint>
#include <numbers>

namespace capstan::scaling {

inline uint64_t mixed(uint64_t x) {  // the finaliser of splitmix64, a bijection
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Random {
 public:
  Random(uint64_t seed, uint64_t stream)
      : state_(mixed(mixed(seed + 0x9e3779b97f4a7c15ULL) ^ (stream * 0xd1342543de82ef95ULL + 1))) {}
  uint64_t bits() { return mixed(state_ += 0x9e3779b97f4a7c15ULL); }
  /// In [0, 1)
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  size_t below(size_t count) { return static_cast<size_t>((static_cast<unsigned __int128>(bits()) * count) >> 64); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace capstan::scaling
