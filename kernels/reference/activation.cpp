#include "kernels/activation.h"

#include "kernels/reference/activation_math.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {

void activation(const ActivationArgs& args) {
  with_element(args.dtype, "activation", [&]<typename T>(T) {
    const T* x = in<T>(args.x);
    const T* up = in<T>(args.up);
    T* y = out<T>(args.y);
    for (int64_t i = 0; i < args.count; ++i) {
      const auto value = activation_value(args.kind, load(x[i]));
      store(y[i], up ? value * load(up[i]) : value);
    }
  });
}

void activation_backward(const ActivationBackwardArgs& args) {
  with_element(args.dtype, "activation_backward", [&]<typename T>(T) {
    const T* x = in<T>(args.x);
    const T* up = in<T>(args.up);
    const T* dy = in<T>(args.dy);
    T* dx = out<T>(args.dx);
    T* dup = out<T>(args.dup);
    for (int64_t i = 0; i < args.count; ++i) {
      const auto g = load(dy[i]), xi = load(x[i]);  // read before dx or dup, either of which may be dy
      const auto slope = activation_derivative(args.kind, xi);
      if (up) {
        const auto u = load(up[i]);
        store(dx[i], slope * u * g);
        store(dup[i], activation_value(args.kind, xi) * g);
      } else {
        store(dx[i], slope * g);
      }
    }
  });
}

}  // namespace capstan::kernels::reference
