// label: plan
// The parts of the solver against other ways to the same numbers: derivatives by finite differences, NNLS by trying
// every subset, minima by known constants.
#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "cluster/scaling/fit.h"
#include "cluster/scaling/linear_algebra.h"
#include "cluster/scaling/nnls.h"
#include "cluster/scaling/profile.h"
#include "tests/cluster/scaling_testing.h"

namespace capstan::scaling {
namespace {

/// Two epochs to twenty of little data, so that both discounts of the repetition form are at work.
Measurements repeated_table(double noise) {
  Random random(5, 1);
  Measurements m;
  for (const double n : {2e7, 5e7, 1.5e8, 6e8, 2e9})
    for (const double unique : {3e8, 2e9})
      for (const double epochs : {0.5, 1.0, 3.0, 8.0, 20.0}) {
        m.parameters.push_back(n);
        m.tokens.push_back(unique * epochs);
        m.unique.push_back(unique);
        m.loss.push_back(1);
      }
  m = checked(m);
  const auto model = make_model(Form::repetition, m, {});
  const Vector truth = model->from_natural({1.87, 521, 1488, 0.353, 0.353, 15.4, 5.3});
  const std::vector<Place> places = places_of(m);
  for (size_t i = 0; i < m.size(); ++i)
    m.loss[i] = std::exp(model->log_loss(places[i], truth, nullptr, nullptr) + noise * random.normal());
  return m;
}

Vector somewhere(const Model& model, Random& random) {
  Vector theta{};
  for (int i = 0; i < model.size(); ++i) {
    const double low = std::max(model.lower()[i], 0.1), high = std::min(model.upper()[i], 2.0);
    theta[i] = low + (high - low) * random.uniform();
  }
  return theta;
}

class EveryForm : public testing::TestWithParam<Form> {};

TEST_P(EveryForm, DerivativesAreThoseOfFiniteDifferences) {
  const Measurements table = repeated_table(0);
  const auto model = make_model(GetParam(), table, {});
  const Sample sample = sample_of(table);
  const Objective objective(*model, sample, sample.weight);
  Random random(3, static_cast<uint64_t>(GetParam()));
  for (const Residual kind : {Residual{Cost::l2, 0, true}, Residual{Cost::huber, 10, false}})
    for (int trial = 0; trial < 5; ++trial) {
      const Vector theta = somewhere(*model, random);
      Evaluation at, up, down;
      objective.evaluate(kind, theta, at);
      EXPECT_NEAR(at.value, objective.value(kind, theta), 1e-12 * at.value);
      for (int i = 0; i < model->size(); ++i) {
        Vector ahead = theta, behind = theta;
        const double step = 1e-5;
        ahead[i] += step;
        behind[i] -= step;
        objective.evaluate(kind, ahead, up);
        objective.evaluate(kind, behind, down);
        const double slope = (up.value - down.value) / (2 * step);
        EXPECT_NEAR(at.gradient[i], slope, 1e-6 * (1 + std::abs(slope)) * (1 + at.value))
            << model->coordinate_names()[i];
        for (int j = 0; j < model->size(); ++j) {
          const double curve = (up.gradient[j] - down.gradient[j]) / (2 * step);
          EXPECT_NEAR(at.hessian[i][j], curve, 1e-5 * (1 + std::abs(curve)) * (1 + at.value)) << i << " " << j;
        }
      }
    }
}

TEST_P(EveryForm, NaturalConstantsGoThereAndBack) {
  const auto model = make_model(GetParam(), repeated_table(0), {});
  Random random(4, 4);
  const Vector theta = somewhere(*model, random);
  const Vector back = model->from_natural(model->natural(theta));
  for (int i = 0; i < model->size(); ++i) EXPECT_NEAR(back[i], theta[i], 1e-10 * theta[i]);
}

TEST_P(EveryForm, FindsTheConstantsThatMadeTheTable) {
  Measurements table = repeated_table(0);
  const auto model = make_model(GetParam(), table, {});
  const std::vector<Place> places = places_of(table);
  const FormName form = form_names()[static_cast<size_t>(GetParam())];
  const std::map<std::string, std::vector<double>> truths = {
      {"chinchilla", {1.7, 480, 2100, 0.35, 0.37}},
      {"kaplan-n", {8.8e13, 0.076}},
      {"kaplan-d", {5.4e13, 0.095}},
      {"kaplan-c", {1.4e27, 0.05}},
      {"kaplan-nd", {6.4e13, 1.8e13, 0.076, 0.103}},
      {"gadre", {1.84, 212, 367, 0.136}},
      {"repetition", {1.87, 521, 1488, 0.353, 0.353, 15.4, 5.3}}};
  const std::vector<double>& truth = truths.at(form.name);
  const Vector theta = model->from_natural(truth);
  for (size_t i = 0; i < table.size(); ++i)
    table.loss[i] = std::exp(model->log_loss(places[i], theta, nullptr, nullptr));
  for (const Residual kind :
       {Residual{Cost::huber, 1e-3, true}, Residual{Cost::l1, 0, true}, Residual{Cost::l2, 0, false}}) {
    const Fit fit = fit_law(GetParam(), table, kind, {});
    EXPECT_TRUE(fit.certificate.converged) << fit.certificate.reason;
    EXPECT_GE(fit.certificate.starts, 32u);
    for (size_t i = 0; i < truth.size(); ++i)
      EXPECT_NEAR(std::log(fit.constants[i] / truth[i]), 0, 1e-4) << form.name << " " << fit.model->names()[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Scaling, EveryForm,
                         testing::Values(Form::chinchilla, Form::kaplan_n, Form::kaplan_d, Form::kaplan_nd,
                                         Form::kaplan_c, Form::gadre, Form::repetition));

double quadratic(const Matrix& gram, const Vector& moment, const Vector& x, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    sum -= moment[i] * x[i];
    for (int j = 0; j < count; ++j) sum += x[i] * gram[i][j] * x[j] / 2;
  }
  return sum;
}

/// The least over all subsets of unknowns held at zero.
double by_brute_force(const Matrix& gram, const Vector& moment, int count) {
  double best = 0;
  for (int mask = 1; mask < 1 << count; ++mask) {
    Matrix part{};
    Vector right{}, found{}, x{};
    std::vector<int> rows;
    for (int i = 0; i < count; ++i)
      if (mask >> i & 1) rows.push_back(i);
    for (size_t i = 0; i < rows.size(); ++i) {
      right[i] = moment[rows[i]];
      for (size_t j = 0; j < rows.size(); ++j) part[i][j] = gram[rows[i]][rows[j]];
    }
    if (!solve_positive(part, right, static_cast<int>(rows.size()), found)) continue;
    bool inside = true;
    for (size_t i = 0; i < rows.size(); ++i) {
      x[rows[i]] = found[i];
      inside = inside && found[i] >= 0;
    }
    if (inside) best = std::min(best, quadratic(gram, moment, x, count));
  }
  return best;
}

TEST(ScalingNnls, IsAsGoodAsTheBestSubset) {
  Random random(9, 9);
  for (int trial = 0; trial < 2000; ++trial) {
    const int count = 1 + static_cast<int>(random.below(5));
    Matrix gram{};
    Vector moment{};
    for (int row = 0; row < 12; ++row) {
      Vector a{};
      for (int i = 0; i < count; ++i) a[i] = random.normal() + (i > 0 && trial % 3 == 0 ? a[i - 1] : 0);
      const double y = random.normal();
      for (int i = 0; i < count; ++i) {
        moment[i] += a[i] * y;
        for (int j = 0; j < count; ++j) gram[i][j] += a[i] * a[j];
      }
    }
    const Vector x = nonnegative_least_squares(gram, moment, count);
    for (int i = 0; i < count; ++i) ASSERT_GE(x[i], 0);
    const double best = by_brute_force(gram, moment, count);
    ASSERT_NEAR(quadratic(gram, moment, x, count), best, 1e-10 * (1 + std::abs(best)));
  }
}

TEST(ScalingNnls, RepeatedAndEmptyColumnsDoNoHarm) {
  Matrix gram{};
  gram[0][0] = gram[0][1] = gram[1][0] = gram[1][1] = 4;
  Vector moment{};
  moment[0] = moment[1] = 8;
  const Vector x = nonnegative_least_squares(gram, moment, 3);
  EXPECT_NEAR(x[0] + x[1], 2, 1e-12);
  EXPECT_EQ(x[2], 0);
}

TEST(ScalingLinearAlgebra, EigenvaluesOfGradedMatrices) {
  Matrix m{};
  const std::vector<std::vector<double>> rows = {{1e10, 1e4, 1}, {1e4, 2, 1e-5}, {1, 1e-5, 3e-9}};
  double trace = 0;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) m[i][j] = rows[i][j];
    trace += rows[i][i];
  }
  const std::vector<double> found = eigenvalues(m, {0, 1, 2});
  EXPECT_NEAR(found[0] + found[1] + found[2], trace, 1e-5);
  // determinant = product, computed by cofactors
  const double determinant = m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
                             m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
                             m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
  EXPECT_NEAR(found[0] * found[1] * found[2] / determinant, 1, 1e-6);
}

TEST(ScalingMinimize, L1MeetsTheLeastAbsoluteLine) {
  // For (Nc/N)^alpha the L1 fit on logarithms is a median line: the objective of the best line through two points.
  Random random(11, 2);
  Measurements m;
  for (int i = 0; i < 25; ++i) {
    m.parameters.push_back(1e6 * std::pow(1.5, i));
    m.loss.push_back(std::pow(m.parameters.back() / 1e14, -0.076) * std::exp(0.02 * random.normal()));
  }
  m = checked(m);
  double best = kInfinity;
  for (size_t i = 0; i < m.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      const double x = std::log(m.parameters[i]), y = std::log(m.loss[i]);
      const double slope = (y - std::log(m.loss[j])) / (x - std::log(m.parameters[j]));
      double sum = 0;
      for (size_t k = 0; k < m.size(); ++k)
        sum += std::abs(y + slope * (std::log(m.parameters[k]) - x) - std::log(m.loss[k]));
      best = std::min(best, sum);
    }
  const Fit fit = fit_law(Form::kaplan_n, m, {Cost::l1, 0, true}, {});
  EXPECT_TRUE(fit.certificate.converged) << fit.certificate.reason;
  EXPECT_NEAR(fit.certificate.objective, best, 1e-7 * best);
}

TEST(ScalingProfile, IsStudentsIntervalForALine) {
  // ln L is linear in ln N: the exact interval is estimate +- sqrt(chi^2) * standard error.
  Random random(2, 8);
  Measurements m;
  double mx = 0;
  for (int i = 0; i < 30; ++i) {
    m.parameters.push_back(1e6 * std::pow(1.4, i));
    m.loss.push_back(std::pow(m.parameters.back() / 1e14, -0.076) * std::exp(0.01 * random.normal()));
    mx += std::log(m.parameters.back()) / 30;
  }
  m = checked(m);
  const Fit fit = fit_law(Form::kaplan_n, m, {Cost::l2, 0, true}, {});
  double xx = 0, rr = 0;
  for (size_t i = 0; i < 30; ++i) {
    xx += std::pow(std::log(m.parameters[i]) - mx, 2);
    rr += fit.residuals[i] * fit.residuals[i];
  }
  const double se = std::sqrt(rr / 28 / xx);
  const Intervals found = profile_intervals(
      fit, m, Quantity(*fit.model, [&](const Vector& theta) { return fit.model->natural(theta)[1]; }));
  EXPECT_NEAR(found.p95.low, fit.constants[1] - 1.959964 * se, 2e-3 * se);
  EXPECT_NEAR(found.p95.high, fit.constants[1] + 1.959964 * se, 2e-3 * se);
  EXPECT_NEAR(found.p68.high, fit.constants[1] + 0.994458 * se, 2e-3 * se);
}

}  // namespace
}  // namespace capstan::scaling
