// label: plan
// What a user meets: refusals with reasons, the same answer for the same seed, decisions, frontiers, the report.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/scaling/study_json.h"
#include "cluster/scaling/study_text.h"
#include "core/error.h"
#include "tests/cluster/scaling_testing.h"
#include "tests/support/outcome.h"

namespace capstan::scaling {
namespace {

using testing::HasSubstr;

const Residual kHuber{Cost::huber, 1e-3, true};

std::string refusal(const std::function<void()>& action, ExitCode code = ExitCode::bad_data) {
  return support::refusal_of(code, action);
}

Measurements grid(std::vector<double> sizes, std::vector<double> tokens, double noise = 0.003) {
  Random random(1, 2);
  const Truth truth;
  Measurements m;
  for (const double n : sizes)
    for (const double d : tokens) {
      m.parameters.push_back(n);
      m.tokens.push_back(d);
      m.loss.push_back(truth.loss(n, d) * std::exp(noise * random.normal()));
    }
  return checked(m);
}

TEST(ScalingRefusals, OneSizeOrOneLength) {
  const auto fitted = [](const Measurements& m) { return refusal([&] { fit_law(Form::chinchilla, m, kHuber, {}); }); };
  EXPECT_THAT(fitted(grid({1e8, 2e8, 3e8, 4e8, 5e8, 6e8, 7e8, 8e8}, {1e10})), HasSubstr("the same number of tokens D"));
  EXPECT_THAT(fitted(grid({1e8}, {1e9, 2e9, 3e9, 4e9, 5e9, 6e9, 7e9, 8e9})),
              HasSubstr("the same number of parameters N"));
}

TEST(ScalingRefusals, FewerRowsThanParametersAndThree) {
  EXPECT_THAT(refusal([] {
                fit_law(Form::chinchilla, grid({1e8, 2e8, 4e8}, {1e9, 4e9}), kHuber, {});
              }),
              HasSubstr("6 rows for 5 free parameters"));
  EXPECT_TRUE(fit_law(Form::chinchilla, grid({1e8, 2e8, 4e8, 8e8}, {1e9, 4e9}), {Cost::l2, 0, true}, {}).rows == 8);
}

TEST(ScalingRefusals, SizeAndDataThatMoveTogether) {
  Measurements m = grid({1e8, 2e8, 3e8, 4e8, 5e8, 6e8, 7e8, 8e8}, {1e10});
  for (size_t i = 0; i < m.size(); ++i) m.tokens[i] = 20 * m.parameters[i];
  EXPECT_THAT(refusal([&] { fit_law(Form::chinchilla, m, kHuber, {}); }), HasSubstr("move together"));
}

TEST(ScalingRefusals, IrreducibleLossAboveTheLeast) {
  Measurements m = grid({1e8, 4e8, 1.6e9, 6.4e9}, {1e9, 4e9, 1.6e10, 6.4e10});
  StudyOptions options;
  options.law.fixed = {{"E", 3.5}};
  EXPECT_THAT(refusal([&] { run_study(m, options); }), HasSubstr("E = 3.5 is not below the least measured loss"));
}

TEST(ScalingRefusals, RepetitionWithoutRepeats) {
  Measurements m = grid({1e8, 4e8, 1.6e9, 6.4e9}, {1e9, 4e9, 1.6e10, 6.4e10});
  EXPECT_THAT(refusal([&] { fit_law(Form::repetition, m, kHuber, {}); }, ExitCode::usage), HasSubstr("--unique"));
  m.unique = m.tokens;
  EXPECT_THAT(refusal([&] { fit_law(Form::repetition, m, kHuber, {}); }), HasSubstr("no row repeats"));
}

TEST(ScalingRefusals, IsoflopMinimumAtTheEdge) {
  const Truth truth;
  Measurements m;
  for (const double flops : {1e18, 1e19, 1e20})
    for (int s = 0; s < 6; ++s) {
      const double n = truth.best_n(flops) * std::pow(2, s + 0.5);  // all above the best
      m.parameters.push_back(n);
      m.tokens.push_back(flops / 6 / n);
      m.loss.push_back(truth.loss(n, flops / 6 / n));
    }
  const std::string message = refusal([&] { isoflop_frontier(checked(m), 1.1, 0, 1, 1); });
  EXPECT_THAT(message, HasSubstr("add smaller ones"));
  EXPECT_THAT(message, HasSubstr("found 0"));
}

TEST(ScalingRefusals, NumbersThatAreNone) {
  for (const double bad : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    Measurements m = grid({1e8, 4e8}, {1e9, 4e9});
    m.loss[2] = bad;
    EXPECT_THAT(refusal([&] { checked(m, {"t:2", "t:3", "t:4", "t:5"}); }), HasSubstr("t:4: the loss"));
  }
}

TEST(ScalingRefusals, FixedConstantsMustExist) {
  FormOptions options;
  options.fixed = {{"gamma", 1}};
  EXPECT_THAT(refusal(
                  [&] {
                    make_model(Form::chinchilla, grid({1, 2}, {1, 2}), options);
                  },
                  ExitCode::usage),
              HasSubstr("has no parameter 'gamma'"));
  options.fixed = {{"Nc", 1}};
  EXPECT_THAT(refusal(
                  [&] {
                    make_model(Form::kaplan_n, grid({1, 2}, {1, 2}), options);
                  },
                  ExitCode::usage),
              HasSubstr("cannot hold 'Nc' fixed"));
}

TEST(ScalingFit, FixedAndTiedConstantsAreKept) {
  const Measurements m = grid({1e8, 4e8, 1.6e9, 6.4e9}, {1e9, 4e9, 1.6e10, 6.4e10}, 0);
  FormOptions options;
  options.fixed = {{"A", 480}, {"beta", 0.37}};
  const Fit fit = fit_law(Form::chinchilla, m, kHuber, options);
  EXPECT_EQ(fit.constants[1], 480);
  EXPECT_EQ(fit.constants[4], 0.37);
  EXPECT_NEAR(fit.constants[0], 1.8, 1e-4);
  EXPECT_NEAR(fit.constants[3], 0.35, 1e-5);
  FormOptions tied;
  tied.tie_exponents = true;
  EXPECT_EQ(fit_law(Form::chinchilla, m, kHuber, tied).constants.size(), 4u);
}

TEST(ScalingBootstrap, SameBitsWhateverTheThreads) {
  Measurements m = isoflop_table({}, 4, 7, 0.005, 3);
  for (size_t i = 0; i < m.size(); ++i) m.run[i] = static_cast<int>(i / 2);  // runs of two rows
  const Fit fit = fit_law(Form::chinchilla, m, kHuber, {});
  const Bootstrap one = bootstrap(fit, m, 40, 17, 1), four = bootstrap(fit, m, 40, 17, 4);
  EXPECT_EQ(one.replicates, four.replicates);
  EXPECT_NE(one.replicates, bootstrap(fit, m, 40, 18, 4).replicates);
  EXPECT_EQ(fit_law(Form::chinchilla, m, kHuber, {}).theta, fit.theta);
}

TEST(ScalingDecision, ClosedFormAndSearchAgree) {
  const Measurements m = isoflop_table({}, 4, 7, 0, 3);
  for (const Form form : {Form::chinchilla, Form::gadre}) {
    const Fit fit = fit_law(form, m, {Cost::l2, 0, true}, {});
    const Limits none, large{1e30, 15, 0};  // a limit that does not bind makes it search
    const Decision closed = decide(form, *fit.model, fit.theta, 1e22, {}, none);
    const Decision searched = decide(form, *fit.model, fit.theta, 1e22, {}, large);
    EXPECT_NEAR(searched.n / closed.n, 1, 1e-4);
    EXPECT_NEAR(searched.loss, closed.loss, 1e-10);
    EXPECT_NEAR(6 * searched.n * searched.d, 1e22, 1e10);
  }
}

TEST(ScalingDecision, LimitsMoveItTheRightWay) {
  const Fit fit = fit_law(Form::chinchilla, isoflop_table({}, 4, 7, 0, 3), {Cost::l2, 0, true}, {});
  const auto decided = [&](const Limits& limits) {
    return decide(Form::chinchilla, *fit.model, fit.theta, 1e22, {}, limits);
  };
  const Decision free = decided({}), capped = decided({free.d / 10, 15.4, 0}), served = decided({0, 15.4, 1e12});
  EXPECT_GT(capped.loss, free.loss);
  EXPECT_LT(capped.d, free.d);       // repeated tokens are worth less: spend on size
  EXPECT_GT(capped.d, free.d / 10);  // but repeating is still worth something
  EXPECT_LT(served.n, free.n);       // serving costs by size
  EXPECT_NEAR(6 * served.n * served.d + 2 * served.n * 1e12, 1e22, 1e12);
}

TEST(ScalingDecision, CostsFromTheTable) {
  Measurements m = isoflop_table({}, 4, 7, 0, 3);
  m.flops_measured = true;
  EXPECT_TRUE(TokenCost(m).is_6nd());
  for (size_t i = 0; i < m.size(); ++i) m.flops[i] *= 1 + 1e7 / m.parameters[i];
  const TokenCost cost(m);
  EXPECT_FALSE(cost.is_6nd());
  EXPECT_NEAR(cost.per_token(m.parameters[5]), m.flops[5] / m.tokens[5], 1e-9 * cost.per_token(m.parameters[5]));
  EXPECT_GT(cost.per_token(1e5), 6e5);
}

TEST(ScalingFrontier, IsoflopFindsTheExponents) {
  const Truth truth;
  const Measurements m = isoflop_table(truth, 6, 9, 0.0005, 3);
  const Frontier f = isoflop_frontier(m, 1.1, 200, 1, 2);
  EXPECT_EQ(f.points, 6u);
  EXPECT_NEAR(f.n.exponent, truth.beta / (truth.alpha + truth.beta), 0.02);
  EXPECT_NEAR(f.n.exponent + f.d.exponent, 1, 1e-6);
  EXPECT_EQ(f.n_replicates.size(), 200u);
}

TEST(ScalingFrontier, EnvelopeFindsTheExponents) {
  const Truth truth;
  Measurements m;
  for (int s = 0; s < 14; ++s)
    for (int k = 0; k < 30; ++k) {
      const double n = 1e7 * std::pow(1.8, s), d = n * std::pow(1.25, k);
      m.parameters.push_back(n);
      m.tokens.push_back(d);
      m.loss.push_back(truth.loss(n, d));
      m.run.push_back(s);
    }
  const Frontier f = envelope_frontier(checked(m), 50, 1, 2);
  EXPECT_NEAR(f.n.exponent, truth.beta / (truth.alpha + truth.beta), 0.03);
  for (const BudgetOptimum& b : f.budgets) {
    EXPECT_GT(b.n, 1.1e7);
    EXPECT_LT(b.n, 1e7 * std::pow(1.8, 13) * 0.99);
  }
}

TEST(ScalingNoise, FromReplicatesIntoWeights) {
  Random random(6, 6);
  Measurements m;
  for (int cell = 0; cell < 300; ++cell)
    for (int seed = 0; seed < 3; ++seed) {
      m.parameters.push_back(1e6 * (cell + 1));
      m.tokens.push_back(1e9);
      const double loss = 2 + 2.0 * cell / 300;
      m.loss.push_back(loss * std::exp(0.001 * std::pow(loss, 3) * random.normal()));
    }
  m = checked(m);
  const Noise noise = replicate_noise(m);
  EXPECT_EQ(noise.cells, 300u);
  EXPECT_EQ(noise.degrees, 600u);
  EXPECT_NEAR(noise.loss_power, 3, 0.6);
  const Measurements weighted = weighted_by(noise, m);
  EXPECT_GT(weighted.weight.front(), 4 * weighted.weight.back());
  EXPECT_THAT(refusal([&] {
                weighted_by(replicate_noise(grid({1, 2}, {1, 2})), grid({1, 2}, {1, 2}));
              }),
              HasSubstr("repeat one cheap cell"));
}

TEST(ScalingStudy, ReportsWhatANewcomerNeeds) {
  StudyOptions options;
  options.replicates = 100;
  options.budgets = {1e22, 1e26};
  const Study study = run_study(isoflop_table({}, 5, 7, 0.003, 3), options);
  const std::string text = study_text(study, "runs.csv");
  for (const char* part : {"converged", "objective (sum)", "starting points", "95% by bootstrap", "back-test", "N*",
                           "warning: C = 1e+26", "compared with parabolas"})
    EXPECT_THAT(text, HasSubstr(part));
  ASSERT_TRUE(study.backtest.done) << study.backtest.reason;
  EXPECT_LT(std::abs(study.backtest.mean_error), 0.01);
  const Truth truth;
  const Interval n = study.decisions[0].n->bootstrap->p95;
  EXPECT_LT(n.low, truth.best_n(1e22));
  EXPECT_GT(n.high, truth.best_n(1e22));
  const std::string json = study_json(study, "runs.csv");
  for (const char* part : {"\"hessian_eigenvalues\"", "\"decisions\"", "\"backtest\"", "\"warnings\"", "\"alpha\""})
    EXPECT_THAT(json, HasSubstr(part));
}

}  // namespace
}  // namespace capstan::scaling
