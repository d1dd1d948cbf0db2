#pragma once
// The uses of a kernel case (kernel_case.h): the reference against the formula in f64, its backward against central
// differences in f64, and every backend in every dtype against the reference in f64 on the same rounded inputs, called
// twice, accumulating, and with each permitted alias. A test file only lists its cases:
//   INSTANTIATE_TEST_SUITE_P(Norm, KernelSuite, all_of(norm_cases()));

#include <omp.h>

#include <algorithm>
#include <functional>
#include <set>

#include "tests/kernels/kernel_backends.h"
#include "tests/kernels/kernel_case_run.h"

namespace capstan::kernels::testing {

/// All cases of an op: one test per use, so that a run starts few processes; a failure names the case in its trace.
struct KernelCases {
  std::vector<KernelCase> cases;
};

inline void PrintTo(const KernelCases& all, std::ostream* to) { *to << all.cases.size() << " cases"; }

inline auto all_of(std::vector<KernelCase> cases) { return ::testing::Values(KernelCases{std::move(cases)}); }

class KernelSuite : public ::testing::TestWithParam<KernelCases> {
 protected:
  void for_each_case(const std::function<void(const KernelCase&)>& use) {
    std::set<std::string> names;
    for (const KernelCase& c : GetParam().cases) {
      SCOPED_TRACE("case " + c.name);
      EXPECT_TRUE(names.insert(c.name).second) << "a second case of this name";
      use(c);
    }
  }
};

inline Values inputs_of(const Stage& stage) {
  Values values;
  for (const Field& field : stage.inputs) {
    if (!field.values.empty()) values[field.name] = field.values;
  }
  return values;
}

/// All that the backward reads: inputs of the case, the reference's forward results in f64, the cotangents.
inline Values backward_inputs(const KernelCase& c, const Values& forward) {
  Values values = forward;
  values.merge(run_stage(c.forward, reference_backend(), DType::f64, forward).values);
  values.merge(inputs_of(c.backward));
  return values;
}

inline Values rounded_inputs(const Stage& stage, const Values& values, DType dtype) {
  Values result = values;
  for (const Field& field : stage.inputs)
    result[field.name] = rounded(values.at(field.name), dtype_of(field.kind, dtype));
  return result;
}

/// sum over the outputs that have a cotangent; gaps do not count.
inline double loss_of(const KernelCase& c, const Values& inputs, const Values& cotangents) {
  double sum = 0;
  const Values outputs = run_stage(c.forward, reference_backend(), DType::f64, inputs).values;
  for (const auto& [name, y] : outputs) {
    const auto d = cotangents.find("d_" + name);
    for (size_t i = 0; d != cotangents.end() && i < y.size(); ++i) sum += std::isnan(y[i]) ? 0.0 : y[i] * d->second[i];
  }
  return sum;
}

/// Directions in which a gradient is tested: every element when they are few, else some elements and some mixtures.
inline std::vector<std::vector<double>> directions_for(const std::string& name, size_t count) {
  std::vector<std::vector<double>> directions;
  const size_t singles = count > 1000 ? 8 : std::min<size_t>(count, 40);
  for (size_t i = 0; i < singles; ++i) {
    directions.emplace_back(count, 0.0);
    directions.back()[count <= 40 ? i : philox_word(3, 1, i) % count] = 1.0;
  }
  for (int k = 0; k < 3; ++k) {
    directions.push_back(random_values(name + std::to_string(k), static_cast<int64_t>(count)));
  }
  return directions;
}

inline void check_gradient(const KernelCase& c, const Values& at, const Field& field, const std::string& input,
                           const std::vector<double>& gradient) {
  constexpr double kStep = 1e-5;
  const std::vector<double>& x = at.at(input);
  ASSERT_EQ(gradient.size(), x.size());
  double scale = 1e-3;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      ASSERT_TRUE(std::isnan(gradient[i]) || gradient[i] == 0.0) << field.name << " of a gap at " << i;
    } else {
      ASSERT_TRUE(std::isfinite(gradient[i])) << field.name << "[" << i << "] was not written";
      scale = std::max(scale, std::fabs(gradient[i]));
    }
  }
  for (const std::vector<double>& direction : directions_for(input, x.size())) {
    Values moved = at;
    double predicted = 0, size = 0, sides[2];
    for (int side = 0; side < 2; ++side) {
      for (size_t i = 0; i < x.size(); ++i) moved[input][i] = x[i] + (side == 0 ? kStep : -kStep) * direction[i];
      sides[side] = loss_of(c, moved, at);
    }
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) continue;
      predicted += gradient[i] * direction[i];
      size += std::fabs(direction[i]);
    }
    const double measured = (sides[0] - sides[1]) / (2 * kStep);
    ASSERT_NEAR(predicted, measured, 1e-7 * scale * size) << field.name << " as gradient of " << input;
  }
}

inline double tolerance_of(const KernelCase& c, const Field& field, DType dtype) {
  if (dtype == DType::f64) return 1e-13;
  if (dtype == DType::f32) return 4e-6 * c.loosen;
  if (field.kind != Kind::element) return 1e-4 * c.loosen;
  return (dtype == DType::f16 ? 5e-4 : 4e-3) * c.loosen;
}

/// Equal numbers; unwritten is equal to unwritten, whatever lay there.
inline bool same_values(const Values& a, const Values& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return std::equal(x.second.begin(), x.second.end(), y.second.begin(), y.second.end(),
                      [](double p, double q) { return p == q || (std::isnan(p) && std::isnan(q)); });
  });
}

/// One stage of a case on one backend in one dtype; `values` are rounded to that dtype.
inline void check_stage(const KernelCase& c, const Stage& stage, const Backend& backend, DType dtype,
                        const Values& values) {
  const Backend reference = reference_backend();
  const bool accumulates =
      std::any_of(stage.outputs.begin(), stage.outputs.end(), [](const Field& f) { return f.accumulates; });
  for (const bool accumulate : accumulates ? std::vector<bool>{false, true} : std::vector<bool>{false}) {
    SCOPED_TRACE(accumulate ? "accumulating" : "writing");
    const RunResult want = run_stage(stage, reference, c.exact ? dtype : DType::f64, values, {accumulate, {}});
    const RunResult got = run_stage(stage, backend, dtype, values, {accumulate, {}});
    for (const Field& field : stage.outputs) {
      const bool same = got.bytes.at(field.name) == want.bytes.at(field.name);
      EXPECT_TRUE(same || !c.exact) << field.name << " differs in bits";
      expect_close(got.values.at(field.name), want.values.at(field.name), tolerance_of(c, field, dtype), field.floor,
                   field.name);
    }
    EXPECT_TRUE(run_stage(stage, backend, dtype, values, {accumulate, {}}).bytes == got.bytes) << "not repeatable";
    if (c.any_alignment) {
      const RunResult shifted = run_stage(stage, backend, dtype, values, {accumulate, {}, true});
      for (const Field& field : stage.outputs) {
        EXPECT_TRUE(!c.exact || shifted.bytes.at(field.name) == want.bytes.at(field.name)) << field.name << ", shifted";
        expect_close(shifted.values.at(field.name), want.values.at(field.name), tolerance_of(c, field, dtype),
                     field.floor, field.name + ", shifted by an element");
      }
    }
    for (const auto& alias : stage.aliases) {
      const RunResult shared = run_stage(stage, backend, dtype, values, {accumulate, alias});
      EXPECT_TRUE(same_values(shared.values, got.values))
          << alias.first << " in the memory of " << alias.second << " differs";
    }
  }
}

inline void check_formula(const KernelCase& c) {
  const Values inputs = inputs_of(c.forward);
  const Values want = c.formula(inputs);
  const RunResult got = run_stage(c.forward, reference_backend(), DType::f64, inputs);
  ASSERT_EQ(want.size(), got.values.size());
  EXPECT_TRUE(!c.exact || same_values(got.values, want)) << "not exact";
  for (const Field& field : c.forward.outputs) {
    expect_close(got.values.at(field.name), want.at(field.name), c.formula_tolerance, field.floor, field.name);
  }
}

inline void check_gradients(const KernelCase& c) {
  if (!c.backward.run) return;
  const Values at = backward_inputs(c, inputs_of(c.forward));
  const RunResult got = run_stage(c.backward, reference_backend(), DType::f64, at);
  for (const Field& field : c.backward.outputs) {
    EXPECT_FALSE(field.gradient_of.empty()) << field.name << " is the gradient of nothing";
    for (const std::string& input : field.gradient_of) {
      check_gradient(c, at, field, input, got.values.at(field.name));
    }
  }
}

inline void check_backend(const KernelCase& c, const Backend& backend) {
  const auto has = [&](DType t) { return std::count(backend.dtypes.begin(), backend.dtypes.end(), t) > 0; };
  if (c.needs_training_products && backend.name == "cpu") return;
  if ((c.needs_f64 && !has(DType::f64)) || (c.needs_f16 && !has(DType::f16))) return;
  for (const DType dtype : backend.dtypes) {
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(backend.name + " " + backend.instruction_set + " " + name_of(dtype) + ", " +
                   std::to_string(threads) + " threads");
      omp_set_num_threads(threads);
      const Values forward = rounded_inputs(c.forward, inputs_of(c.forward), dtype);
      check_stage(c, c.forward, backend, dtype, forward);
      if (c.backward.run) {
        check_stage(c, c.backward, backend, dtype, rounded_inputs(c.backward, backward_inputs(c, forward), dtype));
      }
      if (backend.name == "reference" || device_of(backend) != nullptr) break;  // it has one thread, or none
    }
  }
}

TEST_P(KernelSuite, ReferenceEqualsFormula) { for_each_case(check_formula); }

TEST_P(KernelSuite, GradientEqualsDifferences) { for_each_case(check_gradients); }

TEST_P(KernelSuite, BackendsEqualReference) {
  const std::vector<Backend> backends = all_backends();
  for_each_case([&](const KernelCase& c) {
    for (const Backend& backend : backends) check_backend(c, backend);
  });
}

}  // namespace capstan::kernels::testing
