// label: plan
#include "core/config/config_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <tuple>

#include "core/config/config_reader.h"
#include "core/error.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string mistakes(const std::vector<std::string>& overrides) {
  return support::complaint_of(ExitCode::config, [&] { parse_run_config("", "run.toml", overrides); });
}

std::string world_mistakes(const std::vector<std::string>& overrides, int world) {
  RunConfig config = parse_run_config("", "run.toml", overrides);
  return support::complaint_of(ExitCode::config, [&] { check_for_world(config, world); });
}

TEST(ConfigChecks, Heads) {
  EXPECT_THAT(mistakes({"model.width=128", "model.heads=5"}),
              AllOf(HasSubstr("model.heads: heads must divide width"), HasSubstr("nearest: 4 or 8 heads")));
  EXPECT_EQ(mistakes({"model.width=128", "model.heads=5", "model.head_size=32"}), "");
  EXPECT_THAT(mistakes({"model.heads=8", "model.kv_heads=3"}), HasSubstr("nearest: 2 or 4"));
  EXPECT_THAT(mistakes({"model.heads=4", "model.kv_heads=8"}), HasSubstr("nearest: 4"));
  EXPECT_EQ(mistakes({"model.heads=8", "model.kv_heads=2"}), "");
}

TEST(ConfigChecks, RotaryNeedsEvenDims) {
  EXPECT_THAT(mistakes({"model.positions=rotary", "model.width=27", "model.heads=3"}), HasSubstr("rotary"));
  EXPECT_EQ(mistakes({"model.positions=learned", "model.width=27", "model.heads=3"}), "");
  EXPECT_THAT(mistakes({"model.positions=rotary", "model.head_size=10", "model.rotary_fraction=0.5"}),
              HasSubstr("is 5 dims"));
  EXPECT_EQ(mistakes({"model.positions=rotary", "model.head_size=64", "model.rotary_fraction=0.25"}), "");
  EXPECT_THAT(mistakes({"model.positions=rotary", "model.rotary_fraction=0.001"}), HasSubstr("rotary"));
}

TEST(ConfigChecks, SwitchesThatGoTogether) {
  const std::pair<std::vector<std::string>, std::vector<std::string>> alone[] = {
      {{"model.rotary_scaling=linear", "model.rotary_factor=2"}, {"model.positions=rotary"}},
      {{"model.rotary_factor=2"}, {"model.positions=rotary", "model.rotary_scaling=linear"}},
      {{"model.rotary_original_context=8"}, {"model.positions=rotary", "model.rotary_scaling=yarn"}},
      {{"model.rotary_attention=2"}, {"model.positions=rotary", "model.rotary_scaling=yarn"}},
      {{"model.position_offset=2", "model.positions=none"}, {"model.positions=sinusoidal"}},
      {{"model.deep_alpha=2"}, {"model.norm_placement=deep"}},
      {{"model.deep_beta=2"}, {"model.norm_placement=deep"}},
      {{"model.window_from=1"}, {"model.window=4"}},
      {{"model.global_every=2"}, {"model.window=4"}},
      {{"model.global_first=1"}, {"model.window=4", "model.global_every=2"}},
  };
  for (const auto& [set, wanted] : alone) {
    const std::string key = set[0].substr(0, set[0].find('='));
    EXPECT_THAT(mistakes(set), AllOf(HasSubstr(key), HasSubstr("only read when"))) << key;
    std::vector<std::string> both = set;
    both.insert(both.end(), wanted.begin(), wanted.end());
    EXPECT_EQ(mistakes(both), "");
  }
  EXPECT_THAT(mistakes({"model.window=4", "model.global_every=2", "model.global_first=2"}),
              AllOf(HasSubstr("model.global_first"), HasSubstr("2 is not below 2")));
  EXPECT_THAT(mistakes({"model.query_layer=true", "model.norm_placement=post"}), HasSubstr("query layer"));
  EXPECT_THAT(mistakes({"model.positions=t5", "model.relative_buckets=7"}), HasSubstr("buckets must be even"));
  EXPECT_THAT(mistakes({"model.positions=t5", "model.relative_distance=16"}), HasSubstr("below it; got 32 and 16"));
  EXPECT_THAT(mistakes({"model.positions=xl", "model.width=27", "model.heads=3"}), HasSubstr("width must be even"));
  EXPECT_THAT(mistakes({"model.positions=rotary", "model.rotary_scaling=llama3", "model.rotary_low=5"}),
              HasSubstr("5 is not below 4"));
}

TEST(ConfigChecks, WhatThisVersionLacksIsSaidPlainly) {
  EXPECT_THAT(mistakes({"layout.ep=2"}),
              AllOf(HasSubstr("layout.ep"), HasSubstr("mixture-of-experts"), HasSubstr("not in this version")));
  for (const char* zero : {"1", "2", "3"}) EXPECT_EQ(mistakes({std::string("layout.zero=") + zero}), "");
  EXPECT_THAT(mistakes({"layout.zero=2", "train.reduction=ordered"}), HasSubstr("ordered"));
  EXPECT_THAT(mistakes({"train.precision=fp16", "train.device=cpu"}),
              AllOf(HasSubstr("fp16"), HasSubstr("train.precision = \"bf16\"")));
  EXPECT_EQ(mistakes({"train.precision=fp16", "train.device=reference"}), "");
  EXPECT_EQ(mistakes({"train.device=cuda"}), "");
  EXPECT_THAT(mistakes({"train.device=tpu"}), HasSubstr("auto, cpu, cuda"));
  EXPECT_THAT(mistakes({"train.precision=fp64"}), HasSubstr("reference"));
  EXPECT_EQ(mistakes({"train.precision=fp64", "train.device=reference"}), "");
  EXPECT_EQ(mistakes({"train.precision=bf16", "train.device=reference"}), "");
  EXPECT_THAT(mistakes({"layout.sequence_parallel=true"}), HasSubstr("layout.tp is 1"));
}

TEST(ConfigChecks, LossScalesArePowersOfTwo) {
  EXPECT_EQ(mistakes({"train.initial_loss_scale=1024", "train.minimum_loss_scale=16"}), "");
  EXPECT_THAT(mistakes({"train.initial_loss_scale=1000"}),
              AllOf(HasSubstr("train.initial_loss_scale"), HasSubstr("nearest: 512 or 1024")));
  EXPECT_THAT(mistakes({"train.minimum_loss_scale=3"}), HasSubstr("nearest: 2 or 4"));
  EXPECT_THAT(mistakes({"train.initial_loss_scale=2", "train.minimum_loss_scale=4"}), HasSubstr("above the first"));
}

TEST(ConfigChecks, ContextParallelDegreesThatFit) {
  for (const char* fits : {"layout.cp=2", "layout.cp=3", "layout.cp=4"})
    EXPECT_EQ(mistakes({"model.context=48", fits}), "");
  EXPECT_THAT(mistakes({"model.context=48", "layout.cp=5"}),
              AllOf(HasSubstr("layout.cp"), HasSubstr("multiple of 10"), HasSubstr("nearest: 40 or 50")));
  EXPECT_THAT(mistakes({"model.context=30", "layout.cp=32"}), HasSubstr("nearest: 64"));
  EXPECT_EQ(mistakes({"model.context=24", "layout.cp=2", "layout.tp=4", "layout.sequence_parallel=true"}), "");
  EXPECT_THAT(mistakes({"model.context=20", "layout.cp=2", "layout.tp=4", "layout.sequence_parallel=true"}),
              AllOf(HasSubstr("sequence parallelism divides further"), HasSubstr("nearest: 16 or 24")));
}

TEST(ConfigChecks, TensorParallelDegreesThatFit) {
  const auto model = [](std::vector<std::string> more) {
    std::vector<std::string> all{"model.width=96", "model.heads=12", "model.context=30"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  for (const char* fits : {"layout.tp=2", "layout.tp=3", "layout.tp=12"}) EXPECT_EQ(mistakes(model({fits})), "");
  EXPECT_THAT(mistakes(model({"layout.tp=5"})),
              AllOf(HasSubstr("layout.tp"), HasSubstr("12 heads"), HasSubstr("nearest: 4 or 6")));
  EXPECT_THAT(mistakes(model({"layout.tp=24"})), HasSubstr("nearest: 12"));
  EXPECT_EQ(mistakes(model({"layout.tp=4", "model.kv_heads=2"})), "") << "each key/value head for two ranks";
  EXPECT_THAT(mistakes(model({"layout.tp=3", "model.kv_heads=2"})), HasSubstr("2 key/value heads"));
  EXPECT_THAT(mistakes(model({"layout.tp=4", "model.kv_heads=6"})), HasSubstr("nearest: 3 or 6"));
  EXPECT_THAT(mistakes(model({"layout.tp=3", "model.hidden=100"})), HasSubstr("an MLP of 100"));
  EXPECT_EQ(mistakes(model({"layout.tp=6", "layout.sequence_parallel=true"})), "");
  EXPECT_THAT(mistakes(model({"layout.tp=4", "layout.sequence_parallel=true"})),
              AllOf(HasSubstr("context 30"), HasSubstr("nearest: 3 or 6")));
}

TEST(ConfigChecks, EveryChunkOfAPipelineHasALayer) {
  EXPECT_EQ(mistakes({"model.layers=4", "layout.pp=4"}), "");
  EXPECT_THAT(mistakes({"model.layers=4", "layout.pp=5"}), AllOf(HasSubstr("5 stages"), HasSubstr("layout.pp = 4")));
  EXPECT_EQ(mistakes({"model.layers=4", "layout.pp=2", "layout.schedule=interleaved", "layout.interleave=2"}), "");
  EXPECT_THAT(mistakes({"model.layers=5", "layout.pp=2", "layout.schedule=interleaved", "layout.interleave=3"}),
              AllOf(HasSubstr("2 stages of 3 chunks"), HasSubstr("layout.interleave = 2")));
  EXPECT_THAT(mistakes({"layout.schedule=1f2b"}), AllOf(HasSubstr("did you mean 1f1b"), HasSubstr("\"1f2b\"")));
  EXPECT_THAT(mistakes({"layout.schedule=mytable"}), HasSubstr("a file of that name is \"./mytable\""));
  EXPECT_EQ(mistakes({"layout.schedule=./mytable"}), "");
  EXPECT_EQ(mistakes({"layout.schedule=tables/mine.txt"}), "");
  EXPECT_THAT(mistakes({"model.layers=4", "layout.pp=2", "layout.dp=1", "layout.schedule=interleaved",
                        "layout.interleave=2", "train.global_batch=6", "train.microbatch=2"}),
              AllOf(HasSubstr("3 microbatches"), HasSubstr("train.global_batch = 8")));
}

/// What is offered, taken, is not refused for another reason.
TEST(ConfigChecks, APipelineThatIsOfferedFitsTheBatchToo) {
  std::vector<std::string> wanted{"model.layers=4", "layout.pp=2", "layout.schedule=interleaved", "train.microbatch=1"};
  for (const auto& [change, offer, taken] :
       {std::tuple{"layout.interleave=4 train.global_batch=7", "nearest: layout.interleave = 1", "layout.interleave=1"},
        {"layout.interleave=4 train.global_batch=8", "nearest: layout.interleave = 2", "layout.interleave=2"},
        {"layout.interleave=4 train.global_batch=6 layout.dp=2", "nearest: layout.interleave = 1",
         "layout.interleave=1"},
        {"layout.interleave=2 layout.pp=6 train.global_batch=8", "nearest: layout.pp = 4 and layout.interleave = 1",
         "layout.pp=4 layout.interleave=1"},
        {"layout.interleave=3 layout.schedule=zero-bubble train.global_batch=8", "nearest: layout.interleave = 1",
         "layout.interleave=1"}}) {
    std::vector<std::string> all = wanted;
    const auto add = [&](const std::string& words) {
      std::istringstream in(words);
      for (std::string word; in >> word;) all.push_back(word);
    };
    add(change);
    EXPECT_THAT(mistakes(all), HasSubstr(offer)) << change;
    add(taken);
    EXPECT_EQ(mistakes(all), "") << change;
  }
}

TEST(ConfigChecks, Steps) {
  EXPECT_THAT(mistakes({"train.steps=10", "schedule.warmup_steps=11"}), HasSubstr("longer than the run"));
  EXPECT_THAT(mistakes({"model.layers=4", "layout.recompute=5"}), HasSubstr("4 blocks, but 5"));
  EXPECT_THAT(mistakes({"layout.interleave=2"}), HasSubstr("interleaved"));
}

TEST(ConfigChecks, BatchWithoutAWorld) {
  EXPECT_THAT(mistakes({"train.global_batch=12", "train.microbatch=8"}),
              AllOf(HasSubstr("train.global_batch: must be a multiple"), HasSubstr("nearest: 8 or 16")));
  EXPECT_THAT(mistakes({"train.global_batch=12", "train.microbatch=4", "layout.dp=2"}), HasSubstr("nearest: 8 or 16"));
  EXPECT_EQ(mistakes({"train.global_batch=12", "train.microbatch=4"}), "");
}

TEST(ConfigChecks, WorldFillsWhatWasLeftOut) {
  RunConfig config = parse_run_config("", "f", {"train.global_batch=24", "train.microbatch=4"});
  check_for_world(config, 3);
  EXPECT_EQ(config.layout.dp, 3);
  EXPECT_EQ(config.train.microbatch, 4);
  EXPECT_EQ(config.accumulation(), 2);
  RunConfig whole = parse_run_config("", "f", {"train.global_batch=24"});
  EXPECT_EQ(whole.accumulation(), 0);
  check_for_world(whole, 4);
  EXPECT_EQ(whole.train.microbatch, 6);
  EXPECT_EQ(whole.accumulation(), 1);
  const RunConfig before = whole;
  check_for_world(whole, 4);
  EXPECT_EQ(whole.train.microbatch, before.train.microbatch);
}

TEST(ConfigChecks, WorldThatDoesNotFit) {
  EXPECT_THAT(
      world_mistakes({"layout.dp=3", "train.global_batch=12"}, 2),
      AllOf(HasSubstr("needs 3 ranks, but 2 were started"), HasSubstr("mpirun -n 3"), HasSubstr("layout.dp = 2")));
  EXPECT_THAT(world_mistakes({"train.global_batch=32", "train.microbatch=4"}, 3),
              AllOf(HasSubstr("4 x 3"), HasSubstr("nearest: 24 or 36")));
  EXPECT_THAT(world_mistakes({"train.global_batch=2"}, 3), HasSubstr("nearest: 3"));
  EXPECT_EQ(world_mistakes({"layout.dp=2", "train.global_batch=12"}, 2), "");
}

TEST(ConfigChecks, GroupsOfHybridShardingDivideTheDataRanks) {
  EXPECT_EQ(mistakes({"layout.dp=8", "layout.zero=3", "layout.zero_ranks=4"}), "");
  EXPECT_THAT(mistakes({"layout.dp=12", "train.global_batch=12", "layout.zero_ranks=5"}),
              AllOf(HasSubstr("layout.zero_ranks"), HasSubstr("5 does not divide 12"), HasSubstr("nearest: 4 or 6")));
  EXPECT_THAT(mistakes({"layout.dp=4", "layout.zero_ranks=8"}), HasSubstr("nearest: 4"));
  EXPECT_EQ(mistakes({"layout.zero_ranks=3"}), "") << "how many data ranks there are is not known yet";
  EXPECT_THAT(world_mistakes({"layout.zero_ranks=3"}, 4), AllOf(HasSubstr("3 does not divide 4"), HasSubstr("2 or 4")));
  EXPECT_EQ(world_mistakes({"layout.tp=2", "layout.zero_ranks=2"}, 8), "");
  RunConfig config;
  config.layout.dp = 8;
  EXPECT_EQ(config.layout.shard_group(), 8);
  config.layout.zero_ranks = 2;
  EXPECT_EQ(config.layout.shard_group(), 2);
}

TEST(ConfigChecks, OrderedSumsNeedPowersOfTwo) {
  const auto ordered = [](const char* batch, const char* micro) {
    return std::vector<std::string>{"train.reduction=ordered", std::string("train.global_batch=") + batch,
                                    std::string("train.microbatch=") + micro};
  };
  EXPECT_EQ(world_mistakes(ordered("32", "4"), 1), "");
  EXPECT_EQ(world_mistakes(ordered("32", "4"), 2), "");
  EXPECT_EQ(world_mistakes(ordered("32", "4"), 8), "");
  EXPECT_THAT(world_mistakes(ordered("24", "4"), 2),
              AllOf(HasSubstr("powers of two"), HasSubstr("nearest: train.global_batch = 16 or 32; or use fast")));
  EXPECT_THAT(world_mistakes(ordered("24", "8"), 3),
              HasSubstr("nearest: layout.dp = 2 with train.global_batch = 16, or layout.dp = 4 with "
                        "train.global_batch = 32; or use fast"));
  for (const auto& [batch, world] : {std::pair{"16", 2}, {"32", 2}, {"16", 4}}) {
    EXPECT_EQ(world_mistakes(ordered(batch, "4"), world), "");
  }
  std::vector<std::string> grouped = ordered("24", "2");
  grouped.insert(grouped.end(), {"layout.zero_ranks=4", "layout.dp=12"});
  EXPECT_THAT(mistakes(grouped), AllOf(HasSubstr("layout.dp = 8 with train.global_batch = 16"),
                                       HasSubstr("layout.dp = 16 with train.global_batch = 32")));
  std::vector<std::string> whole{"train.reduction=ordered", "train.global_batch=24"};
  EXPECT_THAT(world_mistakes(whole, 3), HasSubstr("layout.dp = 2 with train.global_batch = 16"));
  std::vector<std::string> chunks = ordered("24", "2");
  chunks.insert(chunks.end(),
                {"layout.pp=3", "layout.schedule=interleaved", "layout.interleave=2", "layout.dp=1", "model.layers=6"});
  EXPECT_THAT(mistakes(chunks), HasSubstr("a power of two for layout.pp, or layout.interleave = 1"));
}

TEST(ConfigChecks, TrainingNeedsACorpusAndADirectory) {
  RunConfig config;
  EXPECT_THAT(support::refusal_of(ExitCode::config, [&] { check_for_training(config); }),
              AllOf(HasSubstr("data.corpora"), HasSubstr("run.dir"), HasSubstr("2 mistakes")));
  config.data.corpora = {"c"};
  config.run.dir = "r";
  EXPECT_NO_THROW(check_for_training(config));
}

}  // namespace
}  // namespace capstan
