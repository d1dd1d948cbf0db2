// label: cpu
// AdamW over several steps, the norm, clipping, and steps that must change nothing.
#include "kernels/optimizer.h"

#include <array>
#include <bit>
#include <cstddef>
#include <numeric>

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

constexpr size_t place_of(size_t offset) { return offset / sizeof(double); }
constexpr size_t kClipScale = place_of(offsetof(StepScalars, clip_scale));
constexpr size_t kNorm = place_of(offsetof(StepScalars, gradient_norm));
constexpr size_t kSkip = place_of(offsetof(StepScalars, skip));
constexpr size_t kUsedScale = place_of(offsetof(StepScalars, used_loss_scale));
constexpr size_t kUpdates = place_of(offsetof(StepScalars, updates));
constexpr size_t kCorrection1 = place_of(offsetof(StepScalars, correction1));
constexpr size_t kCorrection2 = place_of(offsetof(StepScalars, correction2));
constexpr size_t kGradientScale = place_of(offsetof(StepScalars, gradient_scale));

/// StepScalars as a field of doubles.
std::vector<double> scalars_field(const StepScalars& s) {
  const auto values = std::bit_cast<std::array<double, kStepScalars>>(s);
  return {values.begin(), values.end()};
}

struct AdamWSetting {
  std::string name;
  int64_t count;
  bool working = true;
  double weight_decay = 0.1, clip_scale = 0.4, skip = 0.0;
  int64_t step = 3;
};

constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8, kRate = 0.02;

/// The update written as torch's documentation has it.
Values adamw_formula(const AdamWSetting& s, const Values& in) {
  Values out{{"parameter", in.at("p0")}, {"moment1", in.at("m0")}, {"moment2", in.at("v0")}};
  for (size_t i = 0; i < in.at("p0").size() && s.skip == 0; ++i) {
    const double g = in.at("gradient")[i] * s.clip_scale;
    double theta = in.at("p0")[i];
    theta -= kRate * s.weight_decay * theta;
    const double m = kBeta1 * in.at("m0")[i] + (1 - kBeta1) * g;
    const double v = kBeta2 * in.at("v0")[i] + (1 - kBeta2) * g * g;
    const double m_hat = m / (1 - std::pow(kBeta1, s.step)), v_hat = v / (1 - std::pow(kBeta2, s.step));
    out["parameter"][i] = theta - kRate * m_hat / (std::sqrt(v_hat) + kEpsilon);
    out["moment1"][i] = m;
    out["moment2"][i] = v;
  }
  if (s.working) out["working"] = s.skip == 0 ? out["parameter"] : in.at("w0");
  return out;
}

KernelCase adamw_case(const AdamWSetting& s) {
  KernelCase c;
  c.any_alignment = true;
  c.name = "adamw_" + s.name + "_" + std::to_string(s.count);
  c.loosen = 2.0;
  std::vector<double> v = random_values("v", s.count, 0.1);
  for (double& x : v) x = std::fabs(x);
  std::vector<double> gradient = random_values("gradient", s.count);
  if (s.skip != 0) gradient[0] = INFINITY, gradient.back() = std::nan("");
  const StepScalars scalars{.learning_rate = kRate,
                            .correction1 = 1 - std::pow(kBeta1, s.step),
                            .correction2 = 1 - std::pow(kBeta2, s.step),
                            .clip_scale = s.clip_scale,
                            .skip = s.skip};
  Stage& f = c.forward;
  f.inputs = {{"p0", Kind::accumulation, random_values("p", s.count)},
              {"m0", Kind::accumulation, random_values("m", s.count, 0.3)},
              {"v0", Kind::accumulation, v},
              {"gradient", Kind::accumulation, gradient},
              {"scalars", Kind::f64, scalars_field(scalars)}};
  f.outputs = {{.name = "parameter", .kind = Kind::accumulation, .values = sized(s.count), .starts_as = "p0"},
               {.name = "moment1", .kind = Kind::accumulation, .values = sized(s.count), .starts_as = "m0"},
               {.name = "moment2", .kind = Kind::accumulation, .values = sized(s.count), .starts_as = "v0"}};
  if (s.working) {
    f.inputs.push_back({"w0", Kind::element, random_values("w", s.count)});
    f.outputs.push_back({.name = "working", .kind = Kind::element, .values = sized(s.count), .starts_as = "w0"});
  }
  f.run = [s](const Call& call) {
    const Bindings& at = call.at;
    call.backend.adamw({.parameter = at.at("parameter"),
                        .working = at.at("working"),
                        .gradient = at.at("gradient"),
                        .moment1 = at.at("moment1"),
                        .moment2 = at.at("moment2"),
                        .scalars = at.get<const StepScalars>("scalars"),
                        .beta1 = kBeta1,
                        .beta2 = kBeta2,
                        .epsilon = kEpsilon,
                        .weight_decay = s.weight_decay,
                        .count = s.count,
                        .dtype = accumulation_of(call.dtype),
                        .working_dtype = call.dtype});
  };
  c.formula = [s](const Values& in) { return adamw_formula(s, in); };
  return c;
}

KernelCase square_sum_case(int64_t count, bool weighted) {
  KernelCase c;
  c.any_alignment = true;
  c.name = (weighted ? "weighted_square_sum_" : "square_sum_") + std::to_string(count);
  c.forward.inputs = {{"x", Kind::element, random_values("x", count)}, {"weight", Kind::f64, {2.25}}};
  c.forward.outputs = {{.name = "sum", .kind = Kind::f64, .values = sized(1), .accumulates = true}};
  c.forward.scratch = [](const Backend& b, DType) { return b.square_sum_scratch(); };
  c.forward.run = [=](const Call& call) {
    call.backend.square_sum({call.at.at("x"), call.at.get<double>("sum"), call.accumulate, count, call.dtype,
                             call.scratch, weighted ? call.at.get<const double>("weight") : nullptr});
  };
  c.formula = [=](const Values& in) {
    long double sum = 0;
    for (const double v : in.at("x")) sum += static_cast<long double>(v) * v;
    return Values{{"sum", {static_cast<double>(sum * (weighted ? in.at("weight")[0] : 1.0))}}};
  };
  c.loosen = 1e-6;  // the sum is in double whatever the dtype
  return c;
}

struct ClipSetting {
  std::string name;
  std::vector<double> square_sums;
  double limit, loss_scale;
};

KernelCase clip_case(const ClipSetting& s) {
  KernelCase c;
  c.name = "clip_" + s.name;
  const StepScalars scalars{.learning_rate = 0.5,
                            .clip_limit = s.limit,
                            .loss_scale = s.loss_scale,
                            .updates = 11,
                            .gradient_scale = 0.25,
                            .clip_scale = 77,
                            .gradient_norm = 78,
                            .skip = 0.5,
                            .used_loss_scale = 79};
  c.forward.inputs = {{"square_sums", Kind::f64, s.square_sums}, {"before", Kind::f64, scalars_field(scalars)}};
  c.forward.outputs = {{.name = "after", .kind = Kind::f64, .values = sized(kStepScalars), .starts_as = "before"}};
  c.forward.run = [count = static_cast<int64_t>(s.square_sums.size())](const Call& call) {
    call.backend.clip({call.at.get<const double>("square_sums"), call.at.get<StepScalars>("after"), count});
  };
  c.formula = [=](const Values& in) {
    Values out{{"after", in.at("before")}};
    const double norm = std::pow(std::accumulate(s.square_sums.begin(), s.square_sums.end(), 0.0), 0.5) / s.loss_scale;
    out["after"][kClipScale] = (s.limit > 0 ? std::min(1.0, s.limit / norm) : 1.0) / s.loss_scale;
    out["after"][kNorm] = norm;
    out["after"][kSkip] = 0;
    out["after"][kUsedScale] = s.loss_scale;
    out["after"][kUpdates] = 12;
    return out;
  };
  c.loosen = 1e-6;
  return c;
}

struct BeginSetting {
  std::string name;
  double weights, own, updates;
};

KernelCase begin_step_case(const BeginSetting& s) {
  KernelCase c;
  c.name = "begin_step_" + s.name;
  std::array<double, kStepScalars> fields;
  std::iota(fields.begin(), fields.end(), 70.0);
  fields[kUpdates] = s.updates;
  c.forward.inputs = {{"weights", Kind::f64, {s.weights}},
                      {"before", Kind::f64, {fields.begin(), fields.end()}},
                      {"own0", Kind::f64, {s.own}}};
  c.forward.outputs = {{.name = "after", .kind = Kind::f64, .values = sized(kStepScalars), .starts_as = "before"},
                       {.name = "own", .kind = Kind::f64, .values = sized(1), .starts_as = "own0"}};
  c.forward.run = [has_own = s.own > 0.0](const Call& call) {
    call.backend.begin_step({.weights = call.at.get<const double>("weights"),
                             .scalars = call.at.get<StepScalars>("after"),
                             .own_weight = has_own ? call.at.get<double>("own") : nullptr,
                             .beta1 = kBeta1,
                             .beta2 = kBeta2});
  };
  c.formula = [s](const Values& in) {
    Values out{{"after", in.at("before")}, {"own", in.at("own0")}};
    out["after"][kCorrection1] = 1 - std::pow(kBeta1, s.updates + 1);
    out["after"][kCorrection2] = 1 - std::pow(kBeta2, s.updates + 1);
    out["after"][kGradientScale] = s.weights > 0 ? 1 / s.weights : 0;
    if (s.own > 0.0) out["own"][0] = s.weights * s.weights / (s.own * s.own);
    return out;
  };
  c.loosen = 1e-6;
  return c;
}

std::vector<KernelCase> optimizer_cases() {
  std::vector<KernelCase> cases;
  for (const int64_t count : {1, 3, 17, 64, 257, 70001}) {
    cases.push_back(adamw_case({.name = "plain", .count = count}));
    cases.push_back(square_sum_case(count, false));
    cases.push_back(square_sum_case(count, true));
  }
  cases.push_back(adamw_case({.name = "no_decay_first_step", .count = 65, .weight_decay = 0.0, .step = 1}));
  cases.push_back(adamw_case({.name = "no_working_copy", .count = 63, .working = false, .clip_scale = 1.0}));
  for (const ClipSetting& s : {ClipSetting{"above", {400.0}, 1.0, 1.0},
                               {"below", {0.04}, 1.0, 1.0},
                               {"off", {400.0}, 0.0, 1.0},
                               {"zero", {0.0}, 1.0, 1.0},
                               {"several", {16.0, 0.0, 9.0}, 1.0, 1.0},
                               {"scaled", {4.0 * 65536.0}, 1.0, 256.0},
                               {"scaled_off", {9.0}, 0.0, 8.0}}) {
    cases.push_back(clip_case(s));
  }
  for (const BeginSetting& s : {BeginSetting{"first", 512, 0, 0},
                                {"later", 3072, 0, 1999},
                                {"own", 512, 120, 7},
                                {"alone", 512, 512, 1},
                                {"no_weights", 0, 0, 3}}) {
    cases.push_back(begin_step_case(s));
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Optimizer, KernelSuite, all_of(optimizer_cases()));

void clip(const Backend& backend, const double& square_sum, StepScalars& scalars) {
  ClipArgs args{&square_sum, &scalars};
  Mirror mirror(backend);
  mirror.add(&square_sum, sizeof square_sum), mirror.add(&scalars, sizeof scalars);
  mirror.move(args.square_sums), mirror.move(args.scalars);
  backend.clip(args);
  mirror.back();
}

TEST(Clip, SkipsAStepWhoseNormIsNotFinite) {
  for (const Backend& backend : all_backends()) {
    for (const double bad : {static_cast<double>(INFINITY), std::nan("")}) {
      StepScalars scalars{.clip_limit = 1.0};
      clip(backend, bad, scalars);
      EXPECT_EQ(scalars.skip, 1.0) << backend.name;
      const double good = 4.0;
      clip(backend, good, scalars);
      EXPECT_EQ(scalars.skip, 0.0) << backend.name;
      EXPECT_EQ(scalars.gradient_norm, 2.0);
      EXPECT_EQ(scalars.clip_scale, 0.5);
    }
  }
}

TEST(BeginStep, ARankWithoutWeightsHasNoGradientOfItsOwn) {
  for (const Backend& backend : all_backends()) {
    const double weights = 8.0;
    double own = 0.0;
    StepScalars scalars;
    BeginStepArgs args{&weights, &scalars, &own};
    Mirror mirror(backend);
    mirror.add(&weights, sizeof weights), mirror.add(&scalars, sizeof scalars), mirror.add(&own, sizeof own);
    mirror.move(args.weights), mirror.move(args.scalars), mirror.move(args.own_weight);
    backend.begin_step(args);
    mirror.back();
    EXPECT_TRUE(std::isnan(own)) << backend.name;
    EXPECT_EQ(scalars.gradient_scale, 0.125);
  }
}

TEST(Clip, CountsStepsThatWereNotSkipped) {
  for (const Backend& backend : all_backends()) {
    StepScalars s;
    const double good = 4.0, bad = INFINITY;
    clip(backend, good, s), clip(backend, bad, s), clip(backend, good, s);
    EXPECT_EQ(s.updates, 2.0) << backend.name;
  }
}

TEST(Clip, LossScaleIsHalvedAtOnceAndDoubledAfterGoodSteps) {
  const double good = 64.0, bad = INFINITY;
  for (const Backend& backend : all_backends()) {
    StepScalars s{.loss_scale_window = 3, .minimum_loss_scale = 2.0, .loss_scale = 16.0};
    const auto step = [&](const double& sum) { clip(backend, sum, s); };
    const auto expect = [&](double used, double next, double good_steps, double skip) {
      EXPECT_EQ(s.used_loss_scale, used) << backend.name << " " << backend.instruction_set;
      EXPECT_EQ(s.loss_scale, next);
      EXPECT_EQ(s.good_steps, good_steps);
      EXPECT_EQ(s.skip, skip);
      if (skip == 0) {
        EXPECT_EQ(s.gradient_norm, 8.0 / used);
        EXPECT_EQ(s.clip_scale, 1.0 / used);
      }
    };
    step(good), expect(16, 16, 1, 0);
    step(good), expect(16, 16, 2, 0);
    step(bad), expect(16, 8, 0, 1);  // what was good before it does not count
    step(good), expect(8, 8, 1, 0);
    step(good), expect(8, 8, 2, 0);
    step(good), expect(8, 16, 0, 0);
    step(good), expect(16, 16, 1, 0);
    for (const double used : {16.0, 8.0, 4.0}) step(bad), expect(used, used / 2, 0, 1);
    step(bad), expect(2, 2, 0, 1);  // the least
    s.loss_scale = kLargestLossScale, s.good_steps = 2;
    step(good), expect(kLargestLossScale, kLargestLossScale, 0, 0);
    s.loss_scale = 4.0, s.loss_scale_window = 0;  // fixed
    for (int i = 0; i < 5; ++i) step(good), expect(4, 4, 0, 0);
    step(bad), expect(4, 4, 0, 1);
  }
}

TEST(AdamW, ASkippedStepChangesNoBit) {
  const KernelCase c = adamw_case({.name = "skipped", .count = 70, .skip = 1.0});
  const Values inputs = inputs_of(c.forward);
  for (const Backend& backend : all_backends()) {
    for (const DType dtype : backend.dtypes) {
      const Values got = run_stage(c.forward, backend, dtype, inputs).values;
      const std::pair<const char*, const char*> pairs[] = {{"parameter", "p0"}, {"moment1", "m0"}, {"moment2", "v0"}};
      for (const auto& [after, before] : pairs) {
        EXPECT_TRUE(got.at(after) == rounded(inputs.at(before), accumulation_of(dtype))) << backend.name << after;
      }
      EXPECT_TRUE(got.at("working") == rounded(inputs.at("w0"), dtype)) << backend.name;
    }
  }
}

TEST(AdamW, RefusesMastersInBf16) {
  const StepScalars scalars;
  EXPECT_THROW(reference_backend().adamw({.scalars = &scalars, .dtype = DType::bf16}), std::invalid_argument);
}

}  // namespace
}  // namespace capstan::kernels::testing
