#pragma once
// Numbers that carry their first and second derivatives by K variables: exact derivatives of a formula by writing the
// formula. For laws whose derivatives would be pages by hand.

#include <array>
#include <cmath>

namespace capstan::scaling {

template <int K>
struct Jet {
  double value = 0;
  std::array<double, K> first{};
  std::array<std::array<double, K>, K> second{};  // the lower triangle only

  Jet() = default;
  Jet(double constant) : value(constant) {}  // constants mix with jets in formulas
  static Jet variable(double at, int index) {
    Jet out(at);
    out.first[index] = 1;
    return out;
  }
};

/// f(x) with f, f', f'' given at x.
template <int K>
Jet<K> chained(const Jet<K>& x, double f, double f1, double f2) {
  Jet<K> out(f);
  for (int i = 0; i < K; ++i) {
    out.first[i] = f1 * x.first[i];
    for (int j = 0; j <= i; ++j) out.second[i][j] = f1 * x.second[i][j] + f2 * x.first[i] * x.first[j];
  }
  return out;
}

/// f(x, y) with the derivatives of f given.
template <int K>
Jet<K> chained(const Jet<K>& x, const Jet<K>& y, double f, double fx, double fy, double fxx, double fxy, double fyy) {
  Jet<K> out(f);
  for (int i = 0; i < K; ++i) {
    out.first[i] = fx * x.first[i] + fy * y.first[i];
    for (int j = 0; j <= i; ++j)
      out.second[i][j] = fx * x.second[i][j] + fy * y.second[i][j] + fxx * x.first[i] * x.first[j] +
                         fxy * (x.first[i] * y.first[j] + x.first[j] * y.first[i]) + fyy * y.first[i] * y.first[j];
  }
  return out;
}

template <int K>
Jet<K> operator+(const Jet<K>& x, const Jet<K>& y) {
  return chained(x, y, x.value + y.value, 1, 1, 0, 0, 0);
}
template <int K>
Jet<K> operator-(const Jet<K>& x, const Jet<K>& y) {
  return chained(x, y, x.value - y.value, 1, -1, 0, 0, 0);
}
template <int K>
Jet<K> operator*(const Jet<K>& x, const Jet<K>& y) {
  return chained(x, y, x.value * y.value, y.value, x.value, 0, 1, 0);
}
template <int K>
Jet<K> operator/(const Jet<K>& x, const Jet<K>& y) {
  const double u = 1 / y.value, q = x.value * u;
  return chained(x, y, q, u, -q * u, 0, -u * u, 2 * q * u * u);
}
template <int K>
Jet<K> exp(const Jet<K>& x) {
  const double f = std::exp(x.value);
  return chained(x, f, f, f);
}
template <int K>
Jet<K> log(const Jet<K>& x) {
  return chained(x, std::log(x.value), 1 / x.value, -1 / (x.value * x.value));
}

}  // namespace capstan::scaling
