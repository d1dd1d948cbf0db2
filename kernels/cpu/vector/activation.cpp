// Activations and their derivatives: one pass over memory; a kind is a type with value() and both() on vectors.
// The logistic form x s(2u) = x/2 (1 + tanh u) keeps the tails of gelu_tanh precise relative to themselves.

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/math.h"
#include "kernels/cpu/vector/table.h"

namespace capstan::kernels::CAPSTAN_ISA {
namespace {

template <class V>
struct ValueSlope {
  V value, slope;
};

struct Identity {
  template <class V>
  static V value(V x) {
    return x;
  }
  template <class V>
  static ValueSlope<V> both(V x) {
    return {x, V{} + 1.0f};
  }
};

struct Gelu {
  template <class V>
  [[gnu::always_inline]] static V value(V x) {
    return x * normal(x).distribution;
  }
  template <class V>
  [[gnu::always_inline]] static ValueSlope<V> both(V x) {
    const Normal<V> n = normal(x);
    return {x * n.distribution, fma(x, n.density, n.distribution)};
  }
};

struct GeluTanh {
  static constexpr float kTwice = 1.5957691216f, kCubic = 0.044715f * kTwice;  // 2 sqrt(2 / pi)
  template <class V>
  [[gnu::always_inline]] static V value(V x) {
    const V c = clamp(x, -10.0f, 10.0f);
    return x / (exp_within(c * fma(c * c, -kCubic, -kTwice)) + 1.0f);
  }
  template <class V>
  [[gnu::always_inline]] static ValueSlope<V> both(V x) {
    const V c = clamp(x, -10.0f, 10.0f), z = c * c;
    const V e = exp_within(c * fma(z, -kCubic, -kTwice)), s = 1.0f / (e + 1.0f);
    return {x * s, fma(c * s, (e * s) * fma(z, 3 * kCubic, kTwice), s)};
  }
};

struct Relu {
  template <class V>
  static V value(V x) {
    return max(0.0f, x);
  }
  template <class V>
  static ValueSlope<V> both(V x) {
    return {value(x), keep_above(x, 0.0f, V{} + 1.0f)};
  }
};

struct SquaredRelu {
  template <class V>
  static V value(V x) {
    const V r = Relu::value(x);
    return r * r;
  }
  template <class V>
  static ValueSlope<V> both(V x) {
    const V r = Relu::value(x);
    return {r * r, r + r};
  }
};

struct Silu {
  template <class V>
  [[gnu::always_inline]] static V value(V x) {
    return x / (exp_within(-clamp(x, -87.0f, 87.0f)) + 1.0f);
  }
  template <class V>
  [[gnu::always_inline]] static ValueSlope<V> both(V x) {
    const V c = clamp(x, -87.0f, 87.0f), e = exp_within(-c), s = 1.0f / (e + 1.0f);
    return {x * s, fma(c * s, e * s, s)};
  }
};

template <class Call>
void with_kind(ActivationKind kind, Call call) {
  switch (kind) {
    case ActivationKind::none:
      return call(Identity{});
    case ActivationKind::gelu:
      return call(Gelu{});
    case ActivationKind::gelu_tanh:
      return call(GeluTanh{});
    case ActivationKind::relu:
      return call(Relu{});
    case ActivationKind::squared_relu:
      return call(SquaredRelu{});
    case ActivationKind::silu:
      return call(Silu{});
  }
}

template <class T, class Kind>
void forward(const ActivationArgs& args) {
  const T *x = static_cast<const T*>(args.x), *up = static_cast<const T*>(args.up);
  T* y = static_cast<T*>(args.y);
  if (up) {
    parallel_two_vectors(
        args.count, 3 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(y + i, Kind::value(load(x + i, lanes)) * load(up + i, lanes), lanes);
        });
  } else {
    parallel_two_vectors(
        args.count, 2 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(y + i, Kind::value(load(x + i, lanes)), lanes);
        });
  }
}

template <class T, class Kind>
void backward(const ActivationBackwardArgs& args) {
  const T *x = static_cast<const T*>(args.x), *up = static_cast<const T*>(args.up),
          *dy = static_cast<const T*>(args.dy);
  T *dx = static_cast<T*>(args.dx), *dup = static_cast<T*>(args.dup);
  if (up) {
    parallel_two_vectors(
        args.count, 5 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          const auto a = Kind::both(load(x + i, lanes));
          const auto d = load(dy + i, lanes), u = load(up + i, lanes);
          store(dx + i, a.slope * u * d, lanes);
          store(dup + i, a.value * d, lanes);
        });
  } else {
    parallel_two_vectors(
        args.count, 3 * sizeof(T), [=](int64_t i, auto lanes) __attribute__((always_inline)) {
          store(dx + i, Kind::both(load(x + i, lanes)).slope * load(dy + i, lanes), lanes);
        });
  }
}

}  // namespace

void activation(const ActivationArgs& args) {
  with_element(args.dtype, [&](auto element) {
    with_kind(args.kind, [&](auto kind) { forward<decltype(element), decltype(kind)>(args); });
  });
}

void activation_backward(const ActivationBackwardArgs& args) {
  with_element(args.dtype, [&](auto element) {
    with_kind(args.kind, [&](auto kind) { backward<decltype(element), decltype(kind)>(args); });
  });
}

}  // namespace capstan::kernels::CAPSTAN_ISA
