#include "kernels/optimizer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

template <typename A, typename W>
void adamw_loop(const AdamWArgs& args) {
  const StepScalars& s = *args.scalars;
  const A b1 = A(args.beta1), b2 = A(args.beta2), c1 = A(1.0 - args.beta1), c2 = A(1.0 - args.beta2);
  const A rate = A(s.learning_rate), shrink = A(1.0 - s.learning_rate * args.weight_decay);
  const A correction1 = A(s.correction1), correction2 = A(s.correction2);
  A* p = out<A>(args.parameter);
  A* m = out<A>(args.moment1);
  A* v = out<A>(args.moment2);
  W* working = out<W>(args.working);
  for (int64_t i = 0; i < args.count; ++i) {
    const A g = in<A>(args.gradient)[i] * A(s.clip_scale);
    m[i] = b1 * m[i] + c1 * g;
    v[i] = b2 * v[i] + c2 * g * g;
    p[i] = shrink * p[i] - rate * (m[i] / correction1) / (std::sqrt(v[i] / correction2) + A(args.epsilon));
    if (working) store(working[i], p[i]);
  }
}

}  // namespace

void begin_step(const BeginStepArgs& args) {
  StepScalars& s = *args.scalars;
  const double t = s.updates + 1.0;
  start_step(s, *args.weights, std::pow(args.beta1, t), std::pow(args.beta2, t), args.own_weight);
}

size_t square_sum_scratch() { return 0; }

void square_sum(const SquareSumArgs& args) {
  with_element(args.dtype, "square_sum", [&]<typename T>(T) {
    const double weight = args.weight ? *args.weight : 1.0;
    double sum = args.accumulate ? *args.sum : 0.0;
    for (int64_t i = 0; i < args.count; ++i) {
      const double x = load(in<T>(args.x)[i]);
      sum += weight * x * x;
    }
    *args.sum = sum;
  });
}

void clip(const ClipArgs& args) {
  double sum = 0.0;
  for (int64_t i = 0; i < args.count; ++i) sum += args.square_sums[i];
  decide_step(*args.scalars, std::sqrt(sum));
}

void adamw(const AdamWArgs& args) {
  if (args.scalars->skip != 0.0) return;
  if (args.dtype != DType::f32 && args.dtype != DType::f64) {
    throw std::invalid_argument(std::string("adamw: masters are f32 or f64, not ") + name_of(args.dtype));
  }
  with_element(args.working ? args.working_dtype : args.dtype, "adamw", [&]<typename W>(W) {
    if (args.dtype == DType::f64) {
      adamw_loop<double, W>(args);
    } else {
      adamw_loop<float, W>(args);
    }
  });
}

}  // namespace capstan::kernels::reference
