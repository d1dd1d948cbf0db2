// label: cpu
// Layer and RMS norm: with and without residual, bias, weight gradient.
#include "kernels/norm.h"

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

struct Switches {
  bool rms, residual, bias, frozen;
};

Values norm_formula(const Values& in, int64_t rows, int64_t width, const Switches& s) {
  Values out;
  std::vector<double> sum = in.at("x");
  for (size_t i = 0; s.residual && i < sum.size(); ++i) sum[i] += in.at("residual")[i];
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<double> row(sum.begin() + r * width, sum.begin() + (r + 1) * width);
    double first = 0, second = 0;
    for (const double v : row) first += v / static_cast<double>(width);
    if (s.rms) first = 0;
    for (const double v : row) second += (v - first) * (v - first) / static_cast<double>(width);
    const double rstd = 1.0 / std::sqrt(second + 1e-5);
    for (int64_t i = 0; i < width; ++i) {
      const double b = s.bias ? in.at("bias")[static_cast<size_t>(i)] : 0.0;
      out["y"].push_back((row[static_cast<size_t>(i)] - first) * rstd * in.at("weight")[static_cast<size_t>(i)] + b);
    }
    if (!s.rms) out["mean"].push_back(first);
    out["rstd"].push_back(rstd);
  }
  if (s.residual) out["sum"] = sum;
  return out;
}

Stage norm_forward(int64_t rows, int64_t width, const Switches& s) {
  Stage stage;
  stage.inputs = {{"x", Kind::element, coarse(random_values("x", rows * width, 2.0))},
                  {"weight", Kind::element, random_values("weight", width)}};
  stage.outputs = {{"y", Kind::element, sized(rows * width)}, {"rstd", Kind::accumulation, sized(rows)}};
  if (s.bias) stage.inputs.push_back({"bias", Kind::element, random_values("bias", width)});
  if (!s.rms)
    stage.outputs.push_back({.name = "mean", .kind = Kind::accumulation, .values = sized(rows), .floor = 1.0});
  if (s.residual) {
    stage.inputs.push_back({"residual", Kind::element, coarse(random_values("residual", rows * width))});
    stage.outputs.push_back({"sum", Kind::element, sized(rows * width)});
    stage.aliases = {{"sum", "x"}, {"sum", "residual"}};
  }
  stage.run = [=](const Call& c) {
    c.backend.norm({.rms = s.rms,
                    .x = c.at.at("x"),
                    .residual = c.at.at("residual"),
                    .sum = c.at.at("sum"),
                    .weight = c.at.at("weight"),
                    .bias = c.at.at("bias"),
                    .y = c.at.at("y"),
                    .mean = c.at.at("mean"),
                    .rstd = c.at.at("rstd"),
                    .rows = rows,
                    .width = width,
                    .epsilon = 1e-5,
                    .dtype = c.dtype});
  };
  return stage;
}

Stage norm_backward(int64_t rows, int64_t width, const Switches& s) {
  const char* normalised = s.residual ? "sum" : "x";
  Stage stage;
  stage.inputs = {saved(normalised),
                  saved("weight"),
                  saved("rstd", Kind::accumulation),
                  {"d_y", Kind::element, random_values("d_y", rows * width)}};
  if (!s.rms) stage.inputs.push_back(saved("mean", Kind::accumulation));
  stage.outputs = {{.name = "d_s", .values = sized(rows * width), .gradient_of = {"x"}, .floor = 1.0}};
  stage.aliases = {{"d_s", "d_y"}};
  if (s.residual) {
    stage.inputs.push_back({"d_sum", Kind::element, random_values("d_sum", rows * width)});
    stage.outputs[0].gradient_of.push_back("residual");
    stage.aliases.push_back({"d_s", "d_sum"});
  }
  const auto parameter = [&](const char* name, const char* of) {
    stage.outputs.push_back({.name = name,
                             .kind = Kind::accumulation,
                             .values = sized(width),
                             .accumulates = true,
                             .gradient_of = {of},
                             .floor = 1.0});
  };
  if (!s.frozen) parameter("d_weight", "weight");
  if (!s.frozen && s.bias) parameter("d_bias", "bias");
  stage.scratch = [=](const Backend& b, DType t) { return b.norm_backward_scratch(rows, width, t); };
  stage.run = [=](const Call& c) {
    c.backend.norm_backward({.rms = s.rms,
                             .s = c.at.at(normalised),
                             .weight = c.at.at("weight"),
                             .mean = c.at.at("mean"),
                             .rstd = c.at.at("rstd"),
                             .dy = c.at.at("d_y"),
                             .dsum = c.at.at("d_sum"),
                             .ds = c.at.at("d_s"),
                             .dweight = c.at.at("d_weight"),
                             .dbias = c.at.at("d_bias"),
                             .accumulate = c.accumulate,
                             .rows = rows,
                             .width = width,
                             .dtype = c.dtype,
                             .scratch = c.scratch});
  };
  return stage;
}

KernelCase norm_case(int64_t rows, int64_t width, const Switches& s) {
  KernelCase c;
  c.any_alignment = true;
  c.name = std::string(s.rms ? "rms" : "layer") + (s.residual ? "_residual" : "") + (s.bias ? "_bias" : "") +
           (s.frozen ? "_frozen" : "") + "_" + std::to_string(rows) + "x" + std::to_string(width);
  c.forward = norm_forward(rows, width, s);
  c.backward = norm_backward(rows, width, s);
  c.formula = [=](const Values& in) { return norm_formula(in, rows, width, s); };
  return c;
}

std::vector<KernelCase> norm_cases() {
  // The last is large enough to be shared out to threads.
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},   {2, 3},   {3, 2},    {17, 63},  {5, 64},
                                               {64, 65}, {3, 257}, {257, 17}, {257, 300}};
  std::vector<KernelCase> cases;
  int turn = 0;
  for (const auto& [rows, width] : sizes) {
    for (int bits = 0; bits < 16; ++bits) {
      const Switches s{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
      const bool all = rows == 5;  // one size with every combination of switches, the others with two each
      if (!all && bits != turn % 8 && bits != (turn + 3) % 8) continue;
      cases.push_back(norm_case(rows, width, s));
    }
    ++turn;
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Norm, KernelSuite, all_of(norm_cases()));

TEST(Norm, RowsWiderThanRegistersHold) {
  for (const Backend& backend : all_backends()) {
    if (backend.name == "reference") continue;  // it adds up so many numbers one by one, in f32 not well enough
    check_backend(norm_case(2, 2051, {.rms = true, .residual = false, .bias = false, .frozen = false}), backend);
    check_backend(norm_case(2, 16392, {.rms = false, .residual = true, .bias = true, .frozen = false}), backend);
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
