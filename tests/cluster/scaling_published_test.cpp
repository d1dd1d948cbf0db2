// label: cpu
// Published tables and their published answers. The tables are not ours to pass on: name a folder that holds
// svg_extracted_data.csv (the points of Hoffmann et al., figure 4, as read by Besiroglu et al. 2024; it lies in
// github.com/epoch-research/analyzing-chinchilla under data/) in CAPSTAN_SCALING_TABLES.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "cluster/scaling/bootstrap.h"
#include "cluster/scaling/decision.h"
#include "cluster/scaling/table.h"

namespace capstan::scaling {
namespace {

class ChinchillaFigure : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("CAPSTAN_SCALING_TABLES");
    if (!folder) GTEST_SKIP() << "CAPSTAN_SCALING_TABLES is not set";
    const std::string path = std::string(folder) + "/svg_extracted_data.csv";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
    const Csv csv = read_csv(path);
    ASSERT_EQ(csv.rows.size(), 245u);
    table_ = without_largest_losses(measurements_from(csv, with_usual_names({}, csv.header), path), 5);
  }
  void expect_constants(const Fit& fit, const std::vector<double>& wanted, double tolerance) const {
    ASSERT_TRUE(fit.certificate.converged) << fit.certificate.reason;
    EXPECT_GE(fit.certificate.agreeing, 32u);
    EXPECT_TRUE(fit.certificate.at_bound.empty());
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(fit.constants[i] / wanted[i], 1, tolerance) << fit.model->names()[i];
  }
  Measurements table_;
};

TEST_F(ChinchillaFigure, HuberReachesTheLeastObjective) {
  const Fit fit = fit_law(Form::chinchilla, table_, {Cost::huber, 1e-3, true}, {});
  EXPECT_NEAR(fit.certificate.objective, 1.01827402e-3, 5e-12);
  expect_constants(fit, {1.81722, 477.83, 2143.4, 0.34731, 0.36717}, 2e-5);
}

TEST_F(ChinchillaFigure, LeastAbsoluteDeviationGivesThePublishedConstants) {
  expect_constants(fit_law(Form::chinchilla, table_, {Cost::l1, 0, true}, {}),
                   {1.8172, 482.01, 2085.43, 0.3478, 0.3658}, 3e-4);
}

TEST_F(ChinchillaFigure, UncertaintyAndDecisionsAgreeWithThePaper) {
  const Fit fit = fit_law(Form::chinchilla, table_, {Cost::huber, 1e-3, true}, {});
  const Decision d = decide(Form::chinchilla, *fit.model, fit.theta, 5.76e23, {}, {});
  EXPECT_NEAR(d.d / d.n, 18, 1);
  std::vector<double> exponent;
  const Bootstrap drawn = bootstrap(fit, table_, 1000, 1, 0);
  EXPECT_EQ(drawn.replicates.size(), 1000u);
  for (const Vector& theta : drawn.replicates) exponent.push_back(theta[4] / (theta[3] + theta[4]));
  const Interval i = percentile_intervals(exponent).p68;
  EXPECT_NEAR((i.high - i.low) / 2, 0.02, 0.008);  // published standard error of a
}

}  // namespace
}  // namespace capstan::scaling
