// label: cpu
// Matrix products: all transposes, epilogues, result dtypes, accumulation; the gradients are products of the same kind.
#include "kernels/matmul.h"

#include <array>

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

struct MatmulSetting {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
  bool wide = false;  ///< result in the accumulation dtype
  bool bias = false;
  bool accumulate = false;
  ActivationKind activation = ActivationKind::none;
  bool keeps = false;                              ///< aux is the activation's input
  ActivationKind gradient = ActivationKind::none;  ///< at aux
  bool sums = false;                               ///< of A, beside the product

  bool trains() const { return keeps || sums || gradient != ActivationKind::none; }
  std::string name() const {
    std::string s = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
    s += transpose_a ? "_ta" : "";
    s += transpose_b ? "_tb" : "";
    s += wide ? "_wide" : "";
    s += bias ? "_bias" : "";
    s += accumulate ? "_accumulate" : "";
    s += activation == ActivationKind::none ? "" : "_act" + std::to_string(static_cast<int>(activation));
    s += gradient == ActivationKind::none ? "" : "_gradient" + std::to_string(static_cast<int>(gradient));
    return s + (keeps ? "_keeps" : "") + (sums ? "_sums" : "");
  }
};

double plain_activation(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case ActivationKind::gelu_tanh:  // 1 + tanh(z) = 2 / (1 + exp(-2z))
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * std::pow(x, 3))));
    case ActivationKind::relu:
      return std::max(x, 0.0);
    case ActivationKind::squared_relu:
      return std::pow(std::max(x, 0.0), 2);
    case ActivationKind::silu:
      return x * 0.5 * (1 + std::tanh(x / 2));
    case ActivationKind::none:
      break;
  }
  return x;
}

/// By a difference over four points, good to some 1e-13 where the function is smooth.
double slope_of(ActivationKind kind, double x) {
  constexpr double h = 1e-3;
  const auto across = [&](double d) { return plain_activation(kind, x + d) - plain_activation(kind, x - d); };
  return (8 * across(h) - across(2 * h)) / (12 * h);
}

Values matmul_formula(const MatmulSetting& s, const Values& in) {
  std::vector<double> c, aux, sums(static_cast<size_t>(s.m));
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = s.bias ? in.at("bias")[static_cast<size_t>(j)] : 0.0;
      for (int64_t k = s.k - 1; k >= 0; --k) {
        sum += in.at("a")[static_cast<size_t>(s.transpose_a ? k * s.m + i : i * s.k + k)] *
               in.at("b")[static_cast<size_t>(s.transpose_b ? j * s.k + k : k * s.n + j)];
      }
      aux.push_back(sum);
      const bool derives = s.gradient != ActivationKind::none;
      c.push_back(derives ? sum * slope_of(s.gradient, in.at("x")[c.size()]) : plain_activation(s.activation, sum));
    }
    for (int64_t k = 0; s.sums && k < s.k; ++k)
      sums[static_cast<size_t>(i)] += in.at("a")[static_cast<size_t>(k * s.m + i)];
  }
  Values values{{"c", c}};
  if (s.keeps) values["aux"] = aux;
  if (s.sums) values["sums"] = sums;
  return values;
}

MatmulShape shape_of(const MatmulSetting& s, DType t) {
  return {.m = s.m,
          .n = s.n,
          .k = s.k,
          .transpose_a = s.transpose_a,
          .transpose_b = s.transpose_b,
          .a = t,
          .b = t,
          .c = s.wide ? accumulation_of(t) : t,
          .bias = s.bias,
          .activation = s.activation,
          .may_accumulate = s.accumulate,
          .keeps_input = s.keeps,
          .activation_gradient = s.gradient,
          .bias_gradient = s.sums};
}

Stage matmul_forward(const MatmulSetting& s) {
  Stage stage;
  stage.inputs = {{"a", Kind::element, random_values("a", s.m * s.k)},
                  {"b", Kind::element, random_values("b", s.k * s.n)}};
  if (s.bias) stage.inputs.push_back({"bias", Kind::element, random_values("bias", s.n)});
  stage.outputs = {{.name = "c",
                    .kind = s.wide ? Kind::accumulation : Kind::element,
                    .values = sized(s.m * s.n),
                    .accumulates = s.accumulate,
                    .floor = 0.3}};
  if (s.gradient != ActivationKind::none)
    stage.inputs.push_back({"x", s.wide ? Kind::accumulation : Kind::element, random_values("x", s.m * s.n, 3.0)});
  if (s.keeps) {
    stage.outputs.push_back(stage.outputs[0]);
    stage.outputs.back().name = "aux";
  }
  if (s.sums)
    stage.outputs.push_back(
        {.name = "sums", .kind = Kind::accumulation, .values = sized(s.m), .accumulates = s.accumulate, .floor = 0.3});
  stage.scratch = [s](const Backend& b, DType t) { return b.prepare_matmul(shape_of(s, t))->scratch_bytes(); };
  stage.run = [s](const Call& c) {
    const auto prepared = c.backend.prepare_matmul(shape_of(s, c.dtype));
    MatmulArgs args{c.at.at("a"), c.at.at("b"), c.at.at("bias"), c.at.at("c"), c.accumulate};
    args.aux = s.keeps ? c.at.at("aux") : c.at.at("x");
    args.bias_gradient = c.at.at("sums");
    prepared->run(args, c.scratch);
  };
  return stage;
}

/// The gradients of a product are products: which operands, how they lie, of which extents.
struct Gradient {
  const char* left;
  const char* right;
  MatmulShape shape;
};

std::array<Gradient, 2> gradients_of(const MatmulSetting& s, DType t) {
  MatmulShape da{.a = t, .b = t, .c = t};
  MatmulShape db{.a = t, .b = t, .c = accumulation_of(t), .may_accumulate = true};
  std::array<Gradient, 2> result{Gradient{"d_c", "b", da}, Gradient{"a", "d_c", db}};
  MatmulShape& x = result[0].shape;
  MatmulShape& y = result[1].shape;
  if (s.transpose_a) {  // dA is stored [k, m] = op(B) dC^T
    result[0].left = "b", result[0].right = "d_c";
    x.m = s.k, x.n = s.m, x.k = s.n, x.transpose_a = s.transpose_b, x.transpose_b = true;
  } else {  // [m, k] = dC op(B)^T
    x.m = s.m, x.n = s.k, x.k = s.n, x.transpose_b = !s.transpose_b;
  }
  if (s.transpose_b) {  // dB is stored [n, k] = dC^T op(A)
    result[1].left = "d_c", result[1].right = "a";
    y.m = s.n, y.n = s.k, y.k = s.m, y.transpose_a = true, y.transpose_b = s.transpose_a;
  } else {  // [k, n] = op(A)^T dC
    y.m = s.k, y.n = s.n, y.k = s.m, y.transpose_a = !s.transpose_a;
  }
  return result;
}

Stage matmul_backward(const MatmulSetting& s) {
  Stage stage;
  stage.inputs = {saved("a"), saved("b"), {"d_c", Kind::element, random_values("d_c", s.m * s.n)}};
  stage.outputs = {{.name = "d_a", .values = sized(s.m * s.k), .gradient_of = {"a"}, .floor = 0.3},
                   {.name = "d_b",
                    .kind = Kind::accumulation,
                    .values = sized(s.k * s.n),
                    .accumulates = true,
                    .gradient_of = {"b"},
                    .floor = 0.3}};
  if (s.bias) {
    stage.outputs.push_back({.name = "d_bias",
                             .kind = Kind::accumulation,
                             .values = sized(s.n),
                             .accumulates = true,
                             .gradient_of = {"bias"},
                             .floor = 0.3});
  }
  stage.scratch = [s](const Backend& b, DType t) {
    size_t bytes = b.bias_gradient_scratch(s.m, s.n);
    for (const Gradient& g : gradients_of(s, t)) bytes = std::max(bytes, b.prepare_matmul(g.shape)->scratch_bytes());
    return bytes;
  };
  stage.run = [s](const Call& c) {
    const std::array<Gradient, 2> g = gradients_of(s, c.dtype);
    c.backend.prepare_matmul(g[0].shape)
        ->run({c.at.at(g[0].left), c.at.at(g[0].right), nullptr, c.at.at("d_a")}, c.scratch);
    c.backend.prepare_matmul(g[1].shape)
        ->run({c.at.at(g[1].left), c.at.at(g[1].right), nullptr, c.at.at("d_b"), c.accumulate}, c.scratch);
    if (s.bias)
      c.backend.bias_gradient({c.at.at("d_c"), c.at.at("d_bias"), s.m, s.n, c.dtype, c.accumulate, c.scratch});
  };
  return stage;
}

/// Extents that are and are not multiples of 8: a library's aux matrix wants them so.
std::vector<MatmulSetting> training_settings() {
  std::vector<MatmulSetting> all;
  const auto add = [&](int64_t m, int64_t n, int64_t k, auto&& change) {
    MatmulSetting s{m, n, k};
    change(s);
    all.push_back(s);
  };
  const std::array<int64_t, 3> sizes[] = {{17, 33, 40}, {24, 40, 16}, {5, 64, 3}, {1, 8, 1}, {67, 104, 131}};
  for (const auto& [m, n, k] : sizes) {
    for (const bool bias : {false, true})
      add(m, n, k, [&](MatmulSetting& s) {
        s.transpose_b = m != 24, s.bias = bias;
        s.activation = ActivationKind::gelu_tanh, s.keeps = true;
      });
    add(m, n, k, [&](MatmulSetting& s) { s.transpose_b = m == 24, s.gradient = ActivationKind::gelu_tanh; });
    for (const bool accumulate : {false, true})
      add(m, n, k, [&](MatmulSetting& s) {
        s.transpose_a = true, s.transpose_b = m == 67, s.wide = true, s.accumulate = accumulate, s.sums = true;
      });
  }
  for (const ActivationKind kind : {ActivationKind::gelu, ActivationKind::silu}) {
    add(16, 24, 40, [&](MatmulSetting& s) { s.bias = s.keeps = true, s.activation = kind; });
    add(16, 24, 40, [&](MatmulSetting& s) { s.wide = kind == ActivationKind::silu, s.gradient = kind; });
  }
  add(16, 24, 40, [&](MatmulSetting& s) { s.wide = s.bias = s.keeps = true, s.activation = ActivationKind::relu; });
  add(16, 24, 40, [&](MatmulSetting& s) { s.transpose_a = s.sums = true; });  // C in its own dtype
  return all;
}

std::vector<KernelCase> matmul_cases() {
  const std::array<int64_t, 3> sizes[] = {{1, 1, 1},    {2, 3, 1},     {3, 2, 17},  {17, 63, 5},  {1, 257, 64},
                                          {64, 65, 63}, {65, 64, 257}, {63, 1, 64}, {257, 17, 2}, {5, 63, 300}};
  std::vector<MatmulSetting> all;
  int turn = 0;
  for (const auto& [m, n, k] : sizes) {
    for (int t = 0; t < 4; ++t, ++turn) {
      const bool ta = (t & 1) != 0, tb = (t & 2) != 0;
      const bool wide = turn % 3 == 0;
      if (turn % 2 == 0)
        all.push_back({m, n, k, ta, tb, wide, true, false, ActivationKind::none});
      else
        all.push_back({m, n, k, ta, tb, true, false, true, ActivationKind::none});
    }
  }
  for (int kind = 1; kind <= 5; ++kind) {
    const auto activation = static_cast<ActivationKind>(kind);
    all.push_back({17, 33, 40, false, true, false, true, false, activation});
    all.push_back({17, 33, 40, false, false, kind % 2 == 0, false, false, activation});
  }
  for (int t = 0; t < 4; ++t) all.push_back({150, 203, 131, (t & 1) != 0, (t & 2) != 0, t == 1, t > 1, false});
  all.push_back({33, 31, 17, false, false, false, false, true, ActivationKind::none});  // accumulates in its own dtype
  for (const MatmulSetting& s : training_settings()) all.push_back(s);
  std::vector<KernelCase> cases;
  for (const MatmulSetting& s : all) {
    KernelCase c;
    c.name = s.name();
    // Where the activation follows the product, the product may be rounded first, and a square doubles what that costs.
    if (s.activation == ActivationKind::squared_relu) c.loosen = 2.0;
    c.needs_training_products = s.trains();
    // The product may be rounded before it is multiplied by a slope.
    if (s.gradient != ActivationKind::none) c.loosen = 2.0, c.formula_tolerance = 1e-10;
    c.forward = matmul_forward(s);
    if (s.activation == ActivationKind::none && !s.trains() && s.m * s.n * s.k < 2000000)
      c.backward = matmul_backward(s);
    c.formula = [s](const Values& in) { return matmul_formula(s, in); };
    cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Matmul, KernelSuite, all_of(matmul_cases()));

TEST(BiasGradient, SumsManyRowsInBlocks) {
  for (const auto& [rows, n] :
       {std::pair<int64_t, int64_t>{1, 1}, {1000, 3}, {257, 65}, {63, 1024}, {2, 70000}, {1030, 150}}) {
    const std::vector<double> dy = random_values("dy", rows * n);
    for (const Backend& backend : all_backends()) {
      Stage stage;
      stage.inputs = {{"dy", Kind::element, dy}};
      stage.outputs = {
          {.name = "db", .kind = Kind::accumulation, .values = sized(n), .accumulates = true, .floor = 1.0}};
      stage.scratch = [rows = rows, n = n](const Backend& b, DType) { return b.bias_gradient_scratch(rows, n); };
      stage.run = [rows = rows, n = n](const Call& c) {
        c.backend.bias_gradient({c.at.at("dy"), c.at.at("db"), rows, n, c.dtype, c.accumulate, c.scratch});
      };
      for (const DType dtype : backend.dtypes) {
        SCOPED_TRACE(backend.instruction_set + " " + name_of(dtype));
        check_stage({.name = "rows"}, stage, backend, dtype, rounded_inputs(stage, inputs_of(stage), dtype));
      }
    }
  }
}

TEST(MatmulShapes, RefusedWhereTheContractSaysNo) {
  const Backend reference = reference_backend();
  EXPECT_THROW(reference.prepare_matmul({.m = 2, .n = 2, .k = 2, .a = DType::i32, .b = DType::i32, .c = DType::i32}),
               std::invalid_argument);
  EXPECT_THROW(reference.prepare_matmul({.m = 2, .n = 2, .k = 2, .a = DType::f32, .b = DType::bf16}),
               std::invalid_argument);
  EXPECT_THROW(reference.prepare_matmul({.m = 2, .n = 2, .k = 2, .c = DType::bf16}), std::invalid_argument);
  const MatmulShape plain{.m = 2, .n = 2, .k = 2, .transpose_a = true};
  const auto refused = [&](auto&& change) {
    MatmulShape s = plain;
    change(s);
    EXPECT_NE(epilogue_mistake(s), nullptr);
    EXPECT_THROW(reference.prepare_matmul(s), std::invalid_argument);
  };
  EXPECT_EQ(epilogue_mistake(plain), nullptr);
  refused([](MatmulShape& s) { s.bias = s.may_accumulate = true; });
  refused([](MatmulShape& s) { s.keeps_input = true; });
  refused([](MatmulShape& s) { s.activation_gradient = ActivationKind::gelu, s.bias = true; });
  refused([](MatmulShape& s) { s.activation_gradient = ActivationKind::gelu, s.bias_gradient = true; });
  refused([](MatmulShape& s) { s.activation_gradient = ActivationKind::gelu, s.may_accumulate = true; });
  refused([](MatmulShape& s) { s.bias_gradient = true, s.activation = ActivationKind::gelu; });
  refused([](MatmulShape& s) { s.bias_gradient = true, s.transpose_a = false; });
}

}  // namespace
}  // namespace capstan::kernels::testing
