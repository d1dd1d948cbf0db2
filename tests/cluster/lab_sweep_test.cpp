// label: plan
// From a sweep's file to its runs: shapes, budgets, rules, the order in which runs may start, and what goes to Slurm.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "cluster/lab/learning_rate_search.h"
#include "cluster/lab/packing.h"
#include "cluster/lab/slurm.h"
#include "cluster/lab/sweep_plan.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

constexpr const char* kBase = R"([model]
context = 32
positions = "alibi"
[data]
corpora = ["nowhere"]
)";

std::string with(const std::string& sweep) { return std::string(kBase) + "[sweep]\n" + sweep; }

const std::string kIsoFlop = with(R"(
[sweep.sizes]
shapes = ["8x1", "16x2", "24x2", "32x3", "48x3"]
head_size = 8
[sweep.budgets]
flops = [1e9, 4e9]
)");

std::string complaint(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return support::outcome_of([&] { parse_sweep(text, "s.toml", overrides); }).message;
}

RunRecord done(const PlannedRun& run, double loss) {
  RunRecord record;
  record.run = run.id, record.kind = run.kind, record.loss = loss;
  return record;
}

TEST(LabSweep, ABudgetBuysEachSizeItsTokens) {
  const SweepSpec spec = parse_sweep(kIsoFlop, "s.toml");
  EXPECT_EQ(spec.name, "s");
  EXPECT_EQ(spec.dir, "runs/s");
  const SweepPlan plan = plan_sweep(spec, 257, {});
  ASSERT_EQ(plan.runs.size(), 10u);
  std::set<std::string> names;
  for (const PlannedRun& run : plan.runs) {
    EXPECT_TRUE(names.insert(run.id).second) << run.id;
    const SweepSize& size = plan.sizes[run.size];
    EXPECT_DOUBLE_EQ(run.flops, run.tokens * size.cost.half);
    const double step = static_cast<double>(run.batch * size.model.context) * size.cost.half;
    const double budget = run.id.find("-c1e9") != std::string::npos ? 1e9 : 4e9;
    EXPECT_LE(std::abs(run.flops - budget), step / 2 + 1) << run.id;
    const RunConfig config = config_of(spec, run);
    EXPECT_EQ(config.train.steps, run.steps);
    EXPECT_EQ(config.model.width, size.model.width);
    EXPECT_EQ(config.run.dir, "runs/s/runs/" + run.id);
    EXPECT_EQ(config.model.width % config.model.heads, 0);
  }
}

TEST(LabSweep, CountsAreThoseThatTheFileNames) {
  const SweepPlan half = plan_sweep(parse_sweep(kIsoFlop, "s.toml"), 257, {});
  const SweepPlan six =
      plan_sweep(parse_sweep(kIsoFlop, "s.toml", {"sweep.count_flops=6nd", "sweep.count_n=blocks"}), 257, {});
  EXPECT_DOUBLE_EQ(six.sizes[1].flops_token, 6.0 * static_cast<double>(six.sizes[1].parts.total()));
  EXPECT_EQ(six.sizes[1].n, static_cast<double>(half.sizes[1].parts.blocks));
  EXPECT_GT(six.runs[0].tokens, half.runs[0].tokens);
}

TEST(LabSweep, OnlySizesAroundTheExpectedOptimum) {
  const SweepSpec spec = parse_sweep(kIsoFlop, "s.toml",
                                     {"sweep.budgets.sizes_each=3", "sweep.budgets.centre_flops=1e9",
                                      "sweep.budgets.centre_n=6000", "sweep.budgets.centre_exponent=0.9"});
  std::vector<std::string> names;
  for (const PlannedRun& run : plan_sweep(spec, 257, {}).runs) names.push_back(run.id);
  EXPECT_THAT(names, ElementsAre("8x1-c1e9-s1", "16x2-c1e9-s1", "24x2-c1e9-s1", "16x2-c4e9-s1", "24x2-c4e9-s1",
                                 "32x3-c4e9-s1"));
}

TEST(LabSweep, TargetsBecomeShapesThatCanBeBuilt) {
  const SweepSpec spec = parse_sweep(with("count_n = \"blocks\"\n[sweep.sizes]\ntargets = [1e4, 1e5, 1e6, 1e7, 1e8]\n"
                                          "[sweep.budgets]\ntokens_per_parameter = 20\n"),
                                     "s.toml");
  const SweepPlan plan = plan_sweep(spec, 257, {});
  ASSERT_EQ(plan.sizes.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const double target = std::pow(10, 4 + static_cast<double>(i));
    EXPECT_NEAR(plan.sizes[i].n / target, 1, i == 0 ? 0.4 : 0.15) << plan.sizes[i].label;
    EXPECT_NEAR(plan.runs[i].tokens / (20 * plan.sizes[i].n), 1, 0.01);
    EXPECT_EQ(plan.sizes[i].model.width % 16, 0);
  }
  EXPECT_EQ(head_size_for(40, 16), 10);
  EXPECT_EQ(head_size_for(64, 16), 16);
  EXPECT_EQ(head_size_for(7, 4), 1);
}

TEST(LabSweep, RulesOfBatchAndRate) {
  const SweepSpec spec =
      parse_sweep(kIsoFlop, "s.toml",
                  {"sweep.batch.rule=power", "sweep.batch.sequences=8", "sweep.batch.reference_tokens=1e4",
                   "sweep.batch.exponent=0.5", "sweep.learning_rate.rule=power", "sweep.learning_rate.value=0.01",
                   "sweep.learning_rate.reference_n=1e4", "sweep.learning_rate.exponent=-0.5", "sweep.init_scale=0.8"});
  const SweepPlan plan = plan_sweep(spec, 257, {});
  for (const PlannedRun& run : plan.runs) {
    EXPECT_NEAR(run.learning_rate, 0.01 * std::sqrt(1e4 / plan.sizes[run.size].n), 1e-12);
    EXPECT_NEAR(static_cast<double>(run.batch), 8 * std::sqrt(run.tokens / 1e4), 1.0);
    EXPECT_NEAR(config_of(spec, run).model.init_std,
                0.8 / std::sqrt(static_cast<double>(plan.sizes[run.size].model.width)), 1e-6);
  }
}

TEST(LabSweep, ASearchComesFirstAndSetsTheRate) {
  const SweepSpec spec =
      parse_sweep(kIsoFlop, "s.toml",
                  {"sweep.learning_rate.rule=search", "sweep.learning_rate.candidates=[0.001, 0.01, 0.1]",
                   "sweep.learning_rate.search_flops=1e9"});
  const SweepPlan before = plan_sweep(spec, 257, {});
  std::vector<RunRecord> records;
  for (const PlannedRun& run : before.runs) {
    EXPECT_EQ(run.provisional, run.kind != "search") << run.id;
    EXPECT_EQ(run.wave, run.kind == "search" ? 0 : 1);
    // A parabola in ln(rate) with its minimum at 0.02 for the smaller size, 0.005 for the larger.
    const double best = run.size == 1 ? 0.02 : 0.005;
    if (run.kind == "search") records.push_back(done(run, 2 + 0.1 * std::pow(std::log(run.learning_rate / best), 2)));
  }
  ASSERT_EQ(records.size(), 6u);
  const SweepPlan after = plan_sweep(spec, 257, records);
  const double n1 = after.sizes[1].n, n3 = after.sizes[3].n, slope = std::log(0.25) / std::log(n3 / n1);
  for (const PlannedRun& run : after.runs) {
    if (run.kind == "search") continue;
    EXPECT_FALSE(run.provisional);
    EXPECT_NEAR(std::log(run.learning_rate), std::log(0.02) + slope * std::log(after.sizes[run.size].n / n1), 1e-6)
        << run.id;
  }
}

std::set<double> rates_tried(const SweepPlan& plan, size_t size) {
  std::set<double> out;
  for (const PlannedRun& run : plan.runs)
    if (run.kind == "search" && run.size == size) out.insert(run.learning_rate);
  return out;
}

/// Plans until the search asks for nothing more, each trial answered by `answer`. Returns the last plan.
SweepPlan searched(const SweepSpec& spec, const std::function<RunRecord(const PlannedRun&)>& answer) {
  std::vector<RunRecord> records;
  for (int round = 0; round < 20; ++round) {
    const SweepPlan plan = plan_sweep(spec, 257, records);
    const size_t before = records.size();
    for (const PlannedRun& run : plan.runs) {
      const bool known =
          std::any_of(records.begin(), records.end(), [&](const RunRecord& r) { return r.run == run.id; });
      if (run.kind == "search" && !known) records.push_back(answer(run));
      EXPECT_EQ(run.provisional, run.kind != "search" && records.size() > before) << run.id;
    }
    if (records.size() == before) return plan;
  }
  ADD_FAILURE() << "a search without end";
  return {};
}

const std::vector<std::string> kSearch = {"sweep.learning_rate.rule=search",
                                          "sweep.learning_rate.candidates=[0.1, 0.001, 0.01]",
                                          "sweep.learning_rate.search_flops=1e9"};

TEST(LabSweep, ASearchThatEndsAtAnEdgeGoesOnBeyondIt) {
  const SweepSpec spec = parse_sweep(kIsoFlop, "s.toml", kSearch);
  const SweepPlan plan = searched(spec, [](const PlannedRun& run) {
    const double best = run.size == 1 ? 0.4 : 2e-5;
    return done(run, 2 + 0.1 * std::pow(std::log(run.learning_rate / best), 2));
  });
  EXPECT_THAT(rates_tried(plan, 1), Pointwise(DoubleNear(1e-9), {0.001, 0.01, 0.1, 1., 10.}));
  EXPECT_THAT(rates_tried(plan, 3), Pointwise(DoubleNear(1e-9), {1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1}));
  EXPECT_THAT(plan.notes[0], HasSubstr("0.4 is best at 16x2"));
  EXPECT_THAT(plan.notes[1], HasSubstr("2e-05 is best at 32x3"));
}

TEST(LabSweep, BeyondADivergedTrialNothingIsTried) {
  const SweepSpec spec = parse_sweep(kIsoFlop, "s.toml", kSearch);
  const SweepPlan plan = searched(spec, [](const PlannedRun& run) {
    RunRecord record = done(run, 3 - run.learning_rate);
    if (run.learning_rate > 0.5) record.status = "diverged";
    return record;
  });
  EXPECT_THAT(rates_tried(plan, 1), Pointwise(DoubleNear(1e-9), {0.001, 0.01, 0.1, 1.}));
  for (const PlannedRun& run : plan.runs)
    EXPECT_NEAR(run.kind == "ladder" ? run.learning_rate : 0.1, 0.1, 1e-9) << run.id;
}

TEST(LabSweep, ASearchWithoutAMinimumEndsAndSaysSo) {
  const SweepSpec spec = parse_sweep(kIsoFlop, "s.toml", kSearch);
  const SweepPlan rising = searched(spec, [](const PlannedRun& run) { return done(run, 3 + run.learning_rate); });
  EXPECT_EQ(rates_tried(rising, 1).size(), 3u + LearningRateSearch::kMostBeyond);
  EXPECT_THAT(rising.notes[0], HasSubstr("the edge of all that was tried"));
  const SweepPlan none = searched(spec, [](const PlannedRun& run) {
    RunRecord record = done(run, 3);
    record.status = "failed";
    return record;
  });
  EXPECT_EQ(rates_tried(none, 1).size(), 3u);
  EXPECT_THAT(none.notes[0], HasSubstr("no trial of the search came to an end"));
}

TEST(LabSweep, ASearchTriesSizesThatItsBudgetIsMeantFor) {
  std::vector<std::string> settings = kSearch;
  settings.insert(settings.end(), {"sweep.budgets.sizes_each=2", "sweep.budgets.centre_flops=1e9",
                                   "sweep.budgets.centre_n=60000", "sweep.learning_rate.search_sizes=1"});
  const SweepPlan plan = plan_sweep(parse_sweep(kIsoFlop, "s.toml", settings), 257, {});
  EXPECT_EQ(plan.runs[0].id, "48x3-lr0.001");
  EXPECT_EQ(rates_tried(plan, 4).size(), 3u);
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.learning_rate.rule=search", "sweep.learning_rate.candidates=[0.1, 0.1]",
                                   "sweep.learning_rate.search_flops=1e9"}),
              HasSubstr("two distinct sweep.learning_rate.candidates"));
}

TEST(LabSweep, CooldownsBranchFromSegmentsOfOneLongRun) {
  const SweepSpec spec =
      parse_sweep(with("cooldown_share = 0.2\nwarmup_share = 0.1\n[sweep.sizes]\nshapes = \"16x2\"\n"
                       "[sweep.budgets]\ntokens = [32000, 64000, 128000]\n[sweep.batch]\nsequences = 10\n"),
                  "s.toml");
  const SweepPlan plan = plan_sweep(spec, 257, {});
  std::vector<std::string> names;
  for (const PlannedRun& run : plan.runs) names.push_back(run.id);
  EXPECT_THAT(names, ElementsAre("16x2-trunk-s1-b80", "16x2-d3.2e4-s1", "16x2-trunk-s1-b160", "16x2-d6.4e4-s1",
                                 "16x2-trunk-s1-b320", "16x2-d1.28e5-s1"));
  EXPECT_EQ(plan.runs[2].parent, names[0]);
  EXPECT_EQ(plan.runs[3].parent, names[2]);
  EXPECT_EQ(plan.runs[2].first_step, 80);
  EXPECT_EQ(plan.runs[3].first_step, 160);
  EXPECT_EQ(plan.runs[2].directory, plan.runs[0].directory);
  for (const PlannedRun& run : plan.runs) EXPECT_EQ(run.warmup, 10) << run.id;
  EXPECT_EQ(plan.runs[4].wave, 2);
  EXPECT_EQ(config_of(spec, plan.runs[5]).schedule.decay_fraction, 0.2);
}

TEST(LabSweep, RunsStartWhenWhatTheyNeedIsSettledLongestFirst) {
  const SweepSpec spec = parse_sweep(kIsoFlop, "s.toml", {"sweep.held_out.flops=1e10"});
  const SweepPlan plan = plan_sweep(spec, 257, {});
  std::vector<double> seconds;
  for (size_t i = 0; i < plan.runs.size(); ++i) seconds.push_back(static_cast<double>(i + 1));
  EXPECT_EQ(next_run(plan, seconds, {}, {}), 9);  // not 10, the held-out one, which waits for all
  EXPECT_DOUBLE_EQ(makespan(plan, seconds, {}, 1), 66);
  EXPECT_DOUBLE_EQ(makespan(plan, seconds, {}, 2), 28 + 11);
  EXPECT_DOUBLE_EQ(makespan(plan, seconds, {}, 100), 10 + 11);
  std::set<std::string> all;
  for (const PlannedRun& run : plan.runs) all.insert(run.id);
  EXPECT_DOUBLE_EQ(makespan(plan, seconds, all, 2), 0);
}

TEST(LabSweep, OverridesReachTheRunsTheyName) {
  const SweepSpec spec =
      parse_sweep(kIsoFlop + "[sweep.overrides]\n\"16x2-*\" = [\"optimizer.beta2=0.5\"]\n", "s.toml");
  for (const PlannedRun& run : plan_sweep(spec, 257, {}).runs)
    EXPECT_EQ(config_of(spec, run).optimizer.beta2, run.id.starts_with("16x2-") ? 0.5 : 0.95);
  EXPECT_TRUE(matches_pattern("*-c1e?-s*", "8x1-c1e9-s1"));
  EXPECT_FALSE(matches_pattern("*-c1e?", "8x1-c1e9-s1"));
}

TEST(LabSweep, MistakesAreToldAllAtOnceWithTheirLines) {
  const std::string text =
      "[model]\nlayer = 3\n[data]\ncorpora = \"x\"\n[sweep]\nseed = [1]\n[sweep.sizes]\nshapes = [\"8by2\"]\n"
      "head_size = 1.5\n[sweep.budgets]\nflops = \"many\"\n";
  const std::string said = complaint(text);
  for (const char* part :
       {"s.toml:6:1: sweep.seed: unknown key; did you mean sweep.seeds?", "s.toml:9:13: sweep.sizes.head_size",
        "s.toml:11:9: sweep.budgets.flops: wanted", "s.toml:2:1: model.layer: unknown key"})
    EXPECT_THAT(said, HasSubstr(part));
  EXPECT_THAT(complaint("[model]\nlayers = 2\n"), HasSubstr("no section [sweep]"));
  EXPECT_THAT(complaint("[sweep\n"), HasSubstr("s.toml:1"));
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.budgets.sizes_each=2"}), HasSubstr("centre_flops"));
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.cooldown_share=0.2"}), HasSubstr("horizons in tokens"));
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.held_out.flops=1e9"}), HasSubstr("larger than those of the ladder"));
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.noise.flops=1e9"}), HasSubstr("both flops and seeds"));
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.seeds=[1, 1.5]"}), HasSubstr("whole numbers"));
  EXPECT_THAT(complaint(kIsoFlop, {"sweep.sizes.presets=gpt2-125m"}), HasSubstr("did you mean gpt2-124m"));
  EXPECT_EQ(complaint(kIsoFlop), "");
}

TEST(LabSweep, TheRunsSettingsKeepTheirLinesBesideArraysOfSeveralLines) {
  const std::string text =
      "[sweep]\n[sweep.sizes]\nshapes = [\n  \"8x1\",\n  \"16x1\"\n]\n[sweep.budgets]\nflops = [\n1e9,\n[2e9]\n]\n"
      "[data]\ncorpora = [\"x\"]\n[train]\nstep = 3\n";
  const std::string said = complaint(text);
  EXPECT_THAT(said, HasSubstr("s.toml:8:9: sweep.budgets.flops"));
  EXPECT_THAT(said, HasSubstr("s.toml:15:1: train.step: unknown key"));
}

TEST(LabSweep, SlurmGetsOneArrayAWave) {
  SweepSpec spec = parse_sweep(kIsoFlop, "s.toml",
                               {"sweep.held_out.flops=1e10", "sweep.ranks=4", "sweep.threads=2", "sweep.name=it's"});
  const SweepPlan plan = plan_sweep(spec, 257, {});
  const SlurmFiles files = slurm_files(spec, plan, {}, "/opt/capstan", "/home/me/it's.toml", "/scratch/out", "/work");
  ASSERT_EQ(files.waves.size(), 2u);
  EXPECT_EQ(files.waves[1], "held-out-c1e10\n");
  for (const char* part : {"--array=0-9", "--array=0-0", "--ntasks=4 --cpus-per-task=2", "--dependency=afterany:$after",
                           "'/home/me/it'\\''s.toml'", "--job-name=it-s-0", "--signal=B:USR1@120"})
    EXPECT_THAT(files.submit, HasSubstr(part));
}

}  // namespace
}  // namespace capstan
