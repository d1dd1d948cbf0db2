// label: cpu
// Activations, plain and gated, far into both tails.
#include "kernels/activation.h"

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

constexpr const char* kNames[] = {"none", "gelu", "gelu_tanh", "relu", "squared_relu", "silu"};

/// By other identities than the kernel's: the upper tail of the normal distribution, logistic functions.
double independent(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case ActivationKind::gelu_tanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * std::pow(x, 3))));
    case ActivationKind::relu:
      return x < 0 ? 0 : x;
    case ActivationKind::squared_relu:
      return x < 0 ? 0 : std::pow(x, 2);
    case ActivationKind::silu:
      return x * 0.5 * (1 + std::tanh(x / 2));
    case ActivationKind::none:
      break;
  }
  return x;
}

/// Spread over [-4, 4), away from the kink of relu, with a few far values.
std::vector<double> points(int64_t count) {
  std::vector<double> x = random_values("points", count, 4.0);
  for (double& v : x) v = std::fabs(v) < 0.01 ? 0.25 : v;
  const double far[] = {-30.0, 30.0, -12.5, 9.0, -6.0, 0.5};
  for (size_t i = 0; count > 10 && i < 6; ++i) x[i] = far[i];
  return x;
}

KernelCase activation_case(ActivationKind kind, bool gated, int64_t count) {
  KernelCase c;
  c.any_alignment = true;
  c.name = std::string(kNames[static_cast<int>(kind)]) + (gated ? "_gated_" : "_plain_") + std::to_string(count);
  Stage& f = c.forward;
  f.inputs = {{"x", Kind::element, points(count)}};
  if (gated) f.inputs.push_back({"up", Kind::element, random_values("up", count)});
  f.outputs = {{"y", Kind::element, sized(count)}};
  f.aliases = {{"y", "x"}};
  f.run = [=](const Call& call) {
    call.backend.activation({kind, call.at.at("x"), call.at.at("up"), call.at.at("y"), count, call.dtype});
  };
  Stage& b = c.backward;
  b.inputs = {saved("x"), {"d_y", Kind::element, random_values("d_y", count)}};
  b.outputs = {{.name = "d_x", .values = sized(count), .gradient_of = {"x"}}};
  b.aliases = {{"d_x", "d_y"}};
  if (gated) {
    b.inputs.push_back(saved("up"));
    b.outputs.push_back({.name = "d_up", .values = sized(count), .gradient_of = {"up"}});
    b.aliases = {{"d_up", "d_y"}};
  }
  b.run = [=](const Call& call) {
    const Bindings& at = call.at;
    call.backend.activation_backward(
        {kind, at.at("x"), at.at("up"), at.at("d_y"), at.at("d_x"), at.at("d_up"), count, call.dtype});
  };
  c.formula = [=](const Values& in) {
    std::vector<double> y;
    for (size_t i = 0; i < in.at("x").size(); ++i) {
      y.push_back(independent(kind, in.at("x")[i]) * (gated ? in.at("up")[i] : 1.0));
    }
    return Values{{"y", y}};
  };
  return c;
}

std::vector<KernelCase> activation_cases() {
  std::vector<KernelCase> cases;
  for (int kind = 0; kind <= 5; ++kind) {
    for (const bool gated : {false, true}) {
      for (const int64_t count : {1, 17, 63, 257}) {
        cases.push_back(activation_case(static_cast<ActivationKind>(kind), gated, count));
      }
    }
  }
  cases.push_back(activation_case(ActivationKind::gelu_tanh, false, 70001));
  cases.push_back(activation_case(ActivationKind::silu, true, 65537));
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Activation, KernelSuite, all_of(activation_cases()));

TEST(ActivationTails, StayFiniteAndReachTheirLimits) {
  Stage stage = activation_case(ActivationKind::gelu, false, 6).forward;
  const std::vector<double> x = {-1e10, -200.0, -90.0, 90.0, 200.0, 1e10};
  for (const Backend& backend : all_backends()) {
    for (const ActivationKind kind : {ActivationKind::gelu, ActivationKind::gelu_tanh, ActivationKind::silu}) {
      SCOPED_TRACE(backend.instruction_set + " " + kNames[static_cast<int>(kind)]);
      const KernelCase c = activation_case(kind, false, 6);
      const std::vector<double> y = run_stage(c.forward, backend, DType::f32, {{"x", x}}).values.at("y");
      const std::vector<double> slope =
          run_stage(c.backward, backend, DType::f32, {{"x", x}, {"d_y", std::vector<double>(6, 1.0)}}).values.at("d_x");
      for (size_t i = 0; i < 6; ++i) {
        EXPECT_NEAR(y[i] / std::fabs(x[i]), x[i] > 0 ? 1.0 : 0.0, 1e-6) << x[i];
        EXPECT_NEAR(slope[i], x[i] > 0 ? 1.0 : 0.0, 1e-6) << x[i];
      }
    }
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
