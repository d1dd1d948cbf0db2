// label: plan
#include "core/config/config_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/config/keys.h"
#include "core/error.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// The message of the configuration error that the text and overrides cause; empty when they cause none.
std::string mistakes(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return support::complaint_of(ExitCode::config, [&] { parse_run_config(text, "run.toml", overrides); });
}

TEST(ConfigReader, EmptyTextGivesTheDefaults) {
  const RunConfig config = parse_run_config("", "run.toml");
  const RunConfig defaults;
  for (const Key& key : config_keys()) EXPECT_EQ(key.get(config), key.get(defaults)) << key.name;
}

TEST(ConfigReader, ReadsEveryType) {
  const RunConfig config = parse_run_config(R"(
    data.corpora = ["a", "b c"]
    [model]
    layers = 6
    rotary_base = 500000
    norm = "rms"
    bias = false
    [layout]
    recompute = 3
    [train]
    dropout = 0.25
    precision = "bf16"
    [run]
    dir = "somewhere"
  )",
                                            "run.toml");
  EXPECT_EQ(config.data.corpora, (std::vector<std::string>{"a", "b c"}));
  EXPECT_EQ(config.model.layers, 6);
  EXPECT_EQ(config.model.rotary_base, 500000.0);
  EXPECT_EQ(config.model.norm, NormKind::rms);
  EXPECT_FALSE(config.model.bias);
  EXPECT_EQ(config.layout.recompute, (RecomputeConfig{RecomputeConfig::Kind::layers, 3}));
  EXPECT_EQ(config.train.precision, TrainConfig::Precision::bf16);
  EXPECT_EQ(config.train.dtype(), DType::bf16);
  EXPECT_EQ(config.model.dropout, 0.25) << "the reader copies train.dropout to the model";
  EXPECT_EQ(config.run.dir, "somewhere");
}

TEST(ConfigReader, OverridesWinAndTheLastOneWins) {
  const RunConfig config = parse_run_config("[train]\nsteps = 5\n", "run.toml",
                                            {"train.steps=6", "train.steps=7", "optimizer.learning_rate=1e-3",
                                             "layout.recompute=full", "layout.schedule=1f1b", "model.bias=false"});
  EXPECT_EQ(config.train.steps, 7);
  EXPECT_EQ(config.optimizer.learning_rate, 1e-3);
  EXPECT_EQ(config.layout.recompute.kind, RecomputeConfig::Kind::full);
  EXPECT_EQ(config.layout.schedule, "1f1b");
  EXPECT_FALSE(config.model.bias);
}

TEST(ConfigReader, WhatIsReadableIsReadInSpiteOfMistakes) {
  support::TemporaryDirectory directory;
  const std::string path = directory / "run.toml";
  std::ofstream(path) << "[model]\nlayers = \"many\"\nwidht = 3\n[train]\nstart_seconds = 9\nhang_seconds = -1\n";
  const RunConfig usual, read = readable_run_config(path, {"train.stepps=4", "train.steps=6", "train.seed", "=1"});
  EXPECT_EQ(read.train.start_seconds, 9);
  EXPECT_EQ(read.train.steps, 6);
  EXPECT_EQ(read.model.layers, usual.model.layers);
  EXPECT_EQ(read.train.hang_seconds, usual.train.hang_seconds);
  EXPECT_EQ(readable_run_config(path, {"train.start_seconds=no"}).train.start_seconds, 9);
  std::ofstream(path) << "[train\nstart_seconds = 8\n";
  for (const std::string& file : {path, (directory / "none.toml").string(), directory.path().string()})
    EXPECT_EQ(readable_run_config(file, {"train.start_seconds=7"}).train.start_seconds, 7);
}

TEST(ConfigReader, BareWordsAndAwkwardNamesAreStrings) {
  const auto corpora = [](const std::string& value) {
    return parse_run_config("", "f", {"data.corpora=" + value}).data.corpora;
  };
  EXPECT_EQ(corpora("/data/my corpus"), std::vector<std::string>{"/data/my corpus"});
  EXPECT_EQ(corpora("12"), std::vector<std::string>{"12"});
  EXPECT_EQ(corpora("[\"a\", \"b\"]"), (std::vector<std::string>{"a", "b"}));
  const auto dir = [](const std::string& value) { return parse_run_config("", "f", {"run.dir=" + value}).run.dir; };
  EXPECT_EQ(dir("2024-01-01"), "2024-01-01");
  EXPECT_EQ(dir("true"), "true");
  EXPECT_EQ(dir("\"quoted\""), "quoted");
  EXPECT_EQ(dir("a=b#c"), "a=b#c");
  EXPECT_EQ(dir("x\nmodel.layers = 9"), "x\nmodel.layers = 9") << "a value cannot smuggle in another key";
  EXPECT_THAT(mistakes("", {"train.seed=1\nw = 2"}), HasSubstr("wanted an integer"));
}

TEST(ConfigReader, PresetFirstThenFileThenOverrides) {
  const RunConfig config =
      parse_run_config("[model]\nlayers = 3\npreset = \"llama2-7b\"\n", "run.toml", {"model.context=512"});
  EXPECT_EQ(config.model_preset, "llama2-7b");
  EXPECT_EQ(config.model.layers, 3);
  EXPECT_EQ(config.model.context, 512);
  EXPECT_EQ(config.model.hidden, 11008);
  EXPECT_EQ(config.model.positions, Positions::rotary);
  EXPECT_EQ(parse_run_config("model.preset = \"tiny\"", "f", {"model.preset=gpt2-124m"}).model.width, 768);
}

TEST(ConfigReader, UnknownKeyNamesPlaceAndNearest) {
  EXPECT_THAT(mistakes("[model]\n  head = 3\n"), HasSubstr("run.toml:2:3: model.head: unknown key; did you mean "
                                                           "model.heads?"));
  EXPECT_THAT(mistakes("[train]\nlearning_rate = 3\n"), HasSubstr("did you mean optimizer.learning_rate?"));
  EXPECT_THAT(mistakes("layers = 3"), HasSubstr("did you mean model.layers?"));
  EXPECT_THAT(mistakes("[optimiser]\nclip = 1\n"), HasSubstr("unknown section; did you mean optimizer?"));
  EXPECT_THAT(mistakes("", {"train.stesp=3"}), HasSubstr("command line: train.stesp: unknown key; did you mean "
                                                         "train.steps?"));
  EXPECT_THAT(mistakes("[qqq]\nzzz = 1\n"), HasSubstr("capstan config lists all keys"));
  EXPECT_THAT(mistakes("\"model.layers\" = 3"), HasSubstr("unknown key"));
  EXPECT_THAT(mistakes("model.preset = \"gpt2-124\""), HasSubstr("did you mean \"gpt2-124m\"?"));
}

TEST(ConfigReader, WrongTypesSayWhatWasWantedAndGot) {
  EXPECT_THAT(mistakes("[model]\nlayers = \"twelve\"\n"),
              HasSubstr("run.toml:2:10: model.layers: wanted an integer, from 1 to 65536 (blocks), got \"twelve\""));
  EXPECT_THAT(mistakes("[model]\nlayers = 4.0\n"), HasSubstr("got 4.0; write 4"));
  EXPECT_THAT(mistakes("[model]\nlayers = true\n"), HasSubstr("got true"));
  EXPECT_THAT(mistakes("[model.layers]\nx = 1\n"), HasSubstr("got a table"));
  EXPECT_THAT(mistakes("[model]\nlayers = 1979-05-27\n"), HasSubstr("got a date or time"));
  EXPECT_THAT(mistakes("model = 3"), HasSubstr("model: wanted a section [model], got 3"));
  EXPECT_THAT(mistakes("[model]\nbias = 1\n"), HasSubstr("wanted true or false, got 1"));
  EXPECT_THAT(mistakes("[model]\nnorm = \"layr\"\n"),
              HasSubstr("wanted layer or rms, got \"layr\"; did you mean \"layer\"?"));
  EXPECT_THAT(mistakes("[data]\ncorpora = [\"a\", 3]\n"), HasSubstr("wanted a list of strings"));
  EXPECT_THAT(mistakes("[layout]\nrecompute = \"ful\"\n"), HasSubstr("did you mean \"full\"?"));
}

TEST(ConfigReader, RangesHold) {
  for (const char* wrong :
       {"train.steps=0", "train.steps=-5", "train.steps=9223372036854775807", "model.layers=0", "model.width=-1",
        "optimizer.learning_rate=0", "optimizer.learning_rate=nan", "optimizer.learning_rate=inf", "optimizer.beta1=1",
        "optimizer.beta2=-0.1", "schedule.minimum_ratio=1.5", "layout.zero=4", "layout.dp=-1", "train.dropout=1.0",
        "layout.dp=4294967297", "checkpoint.keep=1", "layout.recompute=-1", "train.threads=5000"})
    EXPECT_THAT(mistakes("", {wrong}), HasSubstr("command line: ")) << wrong;
  for (const char* right :
       {"train.steps=1", "optimizer.beta1=0", "schedule.minimum_ratio=0", "schedule.minimum_ratio=1",
        "checkpoint.keep=2", "layout.recompute=0", "optimizer.clip=0", "train.seed=0"})
    EXPECT_EQ(mistakes("", {right}), "") << right;
}

TEST(ConfigReader, AllMistakesAtOnceInOrder) {
  const std::string report = mistakes("[train]\nsteps = -1\nsed = 3\n[model]\nheads = 5\nwidth = 128\nbias = 3\n",
                                      {"nonsense", "optimizer.clip=x", "layout.tp=2"});
  EXPECT_THAT(report, HasSubstr("7 mistakes in the configuration:"));
  const char* expected[] = {"run.toml:2:9: train.steps",
                            "run.toml:3:1: train.sed: unknown key; did you mean train.seed",
                            "run.toml:5:9: model.heads",
                            "run.toml:7:8: model.bias",
                            "command line: wanted key.path=value, got \"nonsense\"",
                            "command line: optimizer.clip",
                            "command line: layout.tp"};
  size_t last = 0;
  for (const char* text : expected) {
    const size_t at = report.find(text);
    ASSERT_NE(at, std::string::npos) << text << "\nnot in\n" << report;
    EXPECT_GT(at, last) << text << " is out of order in\n" << report;
    last = at;
  }
}

TEST(ConfigReader, NoConflictAboutAKeyThatIsWrongAnyway) {
  EXPECT_THAT(mistakes("[model]\nheads = \"five\"\nwidth = 127\n"),
              AllOf(HasSubstr("1 mistake "), Not(HasSubstr("divide"))));
}

TEST(ConfigReader, TomlErrorsHavePlaces) {
  EXPECT_THAT(mistakes("[train]\nsteps = 1\nsteps = 2\n"), HasSubstr("run.toml:3:"));
  EXPECT_THAT(mistakes("[train]\nsteps = \n"), HasSubstr("run.toml:2:"));
  EXPECT_THAT(mistakes("steps = 0x\n", {"model.layrs=1"}), AllOf(HasSubstr("run.toml:1:"), HasSubstr("model.layers")));
  EXPECT_THAT(mistakes("a = \"\xff\xfe\"\n"), HasSubstr("not TOML"));
  EXPECT_THAT(mistakes(std::string("a = 1\0", 6)), HasSubstr("not TOML"));
}

TEST(ConfigReader, HostileText) {
  EXPECT_THAT(mistakes(std::string(kLargestConfigFile + 1, '#')), HasSubstr("at most 1048576 bytes"));
  EXPECT_NE(mistakes("a = " + std::string(100000, '[')), "");
  EXPECT_THAT(mistakes("\"\\u001b[31m\" = 1"), Not(HasSubstr("\x1b")));
  EXPECT_LT(mistakes("[train]\nprecision = \"" + std::string(100000, 'x') + "\"").size(), 1000u);
  EXPECT_THAT(mistakes("", {"run.dir=\xff\xfe"}), HasSubstr("UTF-8"));
  EXPECT_THAT(mistakes("[run]\ndir = \"a\\u0000b\""), HasSubstr("run.dir"));
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "k" + std::to_string(i) + " = 1\n";
  EXPECT_THAT(mistakes(many), AllOf(HasSubstr("1000 mistakes"), HasSubstr("and 950 more")));
}

TEST(ConfigReader, Files) {
  const support::TemporaryDirectory folder;
  const std::string path = folder / "mine.toml";
  std::ofstream(path) << "[train]\nsteps = 3\n";
  EXPECT_EQ(load_run_config(path).train.steps, 3);
  EXPECT_EQ(load_run_config(path).run.dir, "runs/mine");
  EXPECT_EQ(load_run_config(path, {"run.dir=x"}).run.dir, "x");
  for (const std::string missing : {(folder / "none.toml").string(), folder.path().string()})
    support::refusal_of(ExitCode::missing_input, [&] { load_run_config(missing); });
}

/// A run directory may be moved or copied; its record of the config goes with it.
TEST(ConfigReader, ARunsOwnRecordMeansItsDirectory) {
  const std::filesystem::path run =
      std::filesystem::temp_directory_path() / ("capstan_record_" + std::to_string(::getpid())) / "copy";
  std::filesystem::create_directories(run);
  const std::string own = run / "config.toml", other = run / "other.toml";
  for (const std::string& file : {own, other}) std::ofstream(file) << "[run]\ndir = \"runs/first\"\n";
  EXPECT_EQ(load_run_config(own).run.dir, "runs/first") << "there are no checkpoints beside it";
  std::filesystem::create_directories(run / "checkpoints");
  EXPECT_EQ(load_run_config(own).run.dir, run.string());
  EXPECT_EQ(load_run_config(run / "checkpoints" / ".." / "config.toml").run.dir, run.string());
  EXPECT_EQ(load_run_config(own, {"run.dir=x"}).run.dir, "x");
  EXPECT_EQ(load_run_config(other).run.dir, "runs/first");
  std::filesystem::remove_all(run.parent_path());
}

TEST(ConfigReader, ShippedRunsAreValid) {
  const char* source = std::getenv("CAPSTAN_SOURCE");
  if (!source) GTEST_SKIP() << "CAPSTAN_SOURCE is not set";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(source) / "configs/runs")) {
    EXPECT_NO_THROW(load_run_config(entry.path())) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 3);
}

}  // namespace
}  // namespace capstan
