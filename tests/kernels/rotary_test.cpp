// label: cpu
// Rotary positions: both layouts, part of a head, strided rows, far positions; the backward is the inverse rotation.
#include "kernels/rotary.h"

#include <complex>

#include "tests/kernels/kernel_case_suite.h"
#include "tests/support/plain_rotary.h"

namespace capstan::kernels::testing {
namespace {

struct RotarySetting {
  int64_t rows, heads, head_size, rotary_dims, gap;
  bool interleaved;
  double base = 10000.0;
  RotaryScale scale = {};
  int64_t stride() const { return heads * head_size + gap; }
  capstan::testing::PlainRotaryScale plain() const {
    const char* kinds[] = {"none", "linear", "llama3", "yarn"};
    return {kinds[static_cast<int>(scale.kind)], scale.factor, scale.low, scale.high, scale.context, scale.amplitude};
  }
};

/// Pair i of a head as one complex number times exp(i t).
Values rotary_formula(const RotarySetting& s, const Values& in) {
  std::vector<double> y = in.at("x");
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t i = 0; i < s.rotary_dims / 2; ++i) {
        const double t = in.at("positions")[static_cast<size_t>(r)] *
                         capstan::testing::plain_frequency(i, s.rotary_dims, s.base, s.plain());
        const int64_t at = r * s.stride() + h * s.head_size;
        const auto first = static_cast<size_t>(at + (s.interleaved ? 2 * i : i));
        const auto second = static_cast<size_t>(at + (s.interleaved ? 2 * i + 1 : i + s.rotary_dims / 2));
        const auto z = std::complex<double>(y[first], y[second]) * std::polar(s.scale.amplitude, t);
        y[first] = z.real(), y[second] = z.imag();
      }
    }
  }
  return {{"y", y}};
}

std::vector<double> strided(const std::string& name, const RotarySetting& s) {
  std::vector<double> x = random_values(name, s.rows * s.stride());
  for (int64_t i = 0; i < s.rows * s.stride(); ++i) {
    if (i % s.stride() >= s.heads * s.head_size) x[static_cast<size_t>(i)] = std::nan("");
  }
  return x;
}

Stage rotary_stage(const RotarySetting& s, bool backward) {
  const char* from = backward ? "d_y" : "x";
  const char* to = backward ? "d_x" : "y";
  Stage stage;
  std::vector<double> positions;
  const double places[] = {0, 1, 2, 3, 17, 100, 1023, 32767, 99999};
  for (int64_t r = 0; r < s.rows; ++r) positions.push_back(places[r % 9]);
  stage.inputs = {{"positions", Kind::i32, positions}, {from, Kind::element, strided(from, s)}};
  stage.outputs = {{.name = to, .values = sized(s.rows * s.stride())}};
  if (backward) stage.outputs[0].gradient_of = {"x"};
  stage.aliases = {{to, from}};
  stage.run = [=](const Call& c) {
    c.backend.rotary({.positions = c.at.get<const int32_t>("positions"),
                      .x = c.at.at(from),
                      .y = c.at.at(to),
                      .rows = s.rows,
                      .heads = s.heads,
                      .head_size = s.head_size,
                      .rotary_dims = s.rotary_dims,
                      .stride = s.stride(),
                      .base = s.base,
                      .scale = s.scale,
                      .interleaved = s.interleaved,
                      .backward = backward,
                      .dtype = c.dtype});
  };
  return stage;
}

std::vector<KernelCase> rotary_cases() {
  std::vector<RotarySetting> all;
  for (const bool interleaved : {false, true}) {
    all.push_back({1, 1, 2, 2, 0, interleaved});
    all.push_back({9, 2, 8, 8, 0, interleaved});
    all.push_back({10, 3, 16, 6, 5, interleaved});
    all.push_back({17, 1, 64, 64, 3, interleaved, 500000.0});
    using Kind = RotaryScale::Kind;
    all.push_back({18, 2, 80, 20, 0, interleaved, 10000.0, {.kind = Kind::linear, .factor = 4.0}});
    all.push_back({19,
                   2,
                   64,
                   64,
                   0,
                   interleaved,
                   500000.0,
                   {.kind = Kind::llama3, .factor = 8.0, .low = 1.0, .high = 4.0, .context = 8192.0}});
    all.push_back(
        {20,
         2,
         64,
         48,
         0,
         interleaved,
         10000.0,
         {.kind = Kind::yarn, .factor = 4.0, .low = 1.0, .high = 32.0, .context = 4096.0, .amplitude = 1.14}});
    all.push_back({65, 5, 34, 34, 1, interleaved});
    all.push_back({9, 2, 7, 0, 2, interleaved});
    all.push_back({131, 8, 64, 64, 7, interleaved});    // shared out to threads
    all.push_back({3, 2, 1040, 1040, 0, interleaved});  // more pairs than are done at once
    all.push_back({2, 1, 610, 602, 0, interleaved});
  }
  std::vector<KernelCase> cases;
  for (const RotarySetting& s : all) {
    KernelCase c;
    c.any_alignment = true;
    c.name = std::string(s.interleaved ? "interleaved_" : "half_") + std::to_string(s.rows) + "x" +
             std::to_string(s.heads) + "x" + std::to_string(s.head_size) + "_dims" + std::to_string(s.rotary_dims);
    c.forward = rotary_stage(s, false);
    c.backward = rotary_stage(s, true);
    c.backward.inputs[0] = saved("positions", Kind::i32);
    c.formula_tolerance = 2e-11;  // an angle near 1e5 is known to 1.5e-11
    c.formula = [s](const Values& in) { return rotary_formula(s, in); };
    cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Rotary, KernelSuite, all_of(rotary_cases()));

TEST(Rotary, BackwardUndoesForward) {
  const RotarySetting s{20, 2, 16, 12, 0, true};
  const Stage forward = rotary_stage(s, false), backward = rotary_stage(s, true);
  Values values = inputs_of(forward);
  for (const Backend& backend : all_backends()) {
    values["d_y"] = run_stage(forward, backend, DType::f32, values).values.at("y");
    expect_close(run_stage(backward, backend, DType::f32, values).values.at("d_x"), values.at("x"), 1e-6, 0.0,
                 backend.instruction_set);
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
