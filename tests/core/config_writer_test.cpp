// label: plan
#include "core/config/config_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

#include "core/config/config_checks.h"
#include "core/config/config_reader.h"
#include "core/config/keys.h"
#include "core/config/nearest_name.h"
#include "core/config/parameter_count.h"
#include "core/config/presets.h"
#include "core/error.h"

namespace capstan {
namespace {

using Random = std::mt19937_64;

std::string random_text(Random& random) {
  static const std::vector<std::string> pieces = {"a",    "/data", " ", "\"", "\\", "\n", "\t",
                                                  "\x01", "\x7f",  "é", "=",  "#",  "[",  "'"};
  std::string text = "x";
  for (size_t i = random() % 6; i > 0; --i) text += pieces[random() % pieces.size()];
  return text;
}

double random_real(Random& random, const Range& range) {
  for (;;) {
    const double scale = std::pow(10.0, static_cast<double>(random() % 21) - 12.0);
    const double x = scale * std::ldexp(static_cast<double>(random() >> 11), -53);
    if (range.holds(x)) return x;
  }
}

ConfigValue random_value(const Key& key, Random& random) {
  const auto number = [&] {
    const double most = std::min(key.range.maximum, 9e15);
    const auto span = static_cast<uint64_t>(most - key.range.minimum) + 1;
    const uint64_t small = random() % 2 ? span : std::min<uint64_t>(span, 20);
    return static_cast<int64_t>(key.range.minimum) + static_cast<int64_t>(random() % small);
  };
  switch (key.type) {
    case KeyType::boolean:
      return random() % 2 == 0;
    case KeyType::integer:
      return number();
    case KeyType::real:
      return random_real(random, key.range);
    case KeyType::text:
      return random_text(random);
    case KeyType::choice:
      return key.choices[random() % key.choices.size()];
    case KeyType::number_list:
      return ConfigValue(std::vector<double>{0.25, 3});
    case KeyType::text_list: {
      std::vector<std::string> list(random() % 3);
      for (std::string& item : list) item = random_text(random);
      return list;
    }
    case KeyType::choice_or_count:
      if (random() % 2) return number();
      return key.choices[random() % key.choices.size()];
  }
  return false;
}

TEST(ConfigWriter, RandomConfigsComeBackBitForBit) {
  Random random(7);
  int tried = 0, compared = 0;
  while (compared < 300 && ++tried < 20000) {
    RunConfig config;
    for (const Key& key : config_keys()) {
      if (key.name == "model.preset" || random() % 3 == 0) continue;
      const RunConfig before = config;
      key.set(config, random_value(key, random));
      if (!config_conflicts(config).empty()) config = before;
    }
    config.model.dropout = config.train.dropout;
    if (random() % 4 == 0) config.model_preset = "llama2-70b";
    const RunConfig back = parse_run_config(write_effective(config), "config.toml");
    ASSERT_EQ(canonical(back), canonical(config));
    EXPECT_EQ(back.model.dropout, config.model.dropout);
    EXPECT_TRUE(resume_differences(config, back).empty());
    ++compared;
  }
  EXPECT_EQ(compared, 300);
}

TEST(ConfigWriter, EveryKeyIsReadFromWhatIsWritten) {
  for (const Key& key : config_keys()) {
    RunConfig config;
    Random random(11);
    const ConfigValue before = key.get(config);
    ConfigValue value = before;
    for (int i = 0; i < 100 && value == before; ++i) value = random_value(key, random);
    ASSERT_NE(value, before) << key.name;
    ASSERT_TRUE(key.accepts(value)) << key.name;
    key.set(config, value);
    EXPECT_EQ(key.get(config), value) << key.name;
    EXPECT_TRUE(canonical(config) != canonical(RunConfig{})) << key.name;
    const auto others = [&](const Key& other) {
      return other.name != key.name && other.get(config) != other.get(RunConfig{});
    };
    EXPECT_TRUE(std::none_of(config_keys().begin(), config_keys().end(), others)) << key.name << " shares its field";
  }
}

TEST(ConfigWriter, ResumeDifferencesSayWhatIsSafe) {
  RunConfig before, after;
  after.train.steps = 2000;
  after.model.width = 256;
  const std::vector<ConfigDifference> changed = resume_differences(before, after);
  ASSERT_EQ(changed.size(), 2u);
  EXPECT_EQ(changed[0].key, "model.width");
  EXPECT_EQ(changed[0].before, "128");
  EXPECT_EQ(changed[0].after, "256");
  EXPECT_EQ(changed[0].on_resume, OnResume::fixed);
  EXPECT_EQ(changed[1].key, "train.steps");
  EXPECT_EQ(changed[1].on_resume, OnResume::may_change);
}

TEST(ConfigWriter, WritingOutWhatZeroMeansIsNoDifference) {
  RunConfig before, after;
  after.model.kv_heads = 4;
  after.model.head_size = 32;
  after.model.hidden = 512;
  EXPECT_TRUE(resume_differences(before, after).empty());
  after.model.kv_heads = 2;
  ASSERT_EQ(resume_differences(before, after).size(), 1u);
  EXPECT_EQ(resume_differences(before, after)[0].before, "4");
}

TEST(ConfigKeys, TheTableIsSound) {
  std::set<std::string> names;
  std::set<std::string> closed_sections;
  std::string section;
  const RunConfig defaults;
  for (const Key& key : config_keys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name << " is declared twice";
    if (key.section() != section) {
      EXPECT_TRUE(closed_sections.insert(key.section()).second) << key.section();
    }
    section = key.section();
    EXPECT_TRUE(key.accepts(key.get(defaults))) << key.name << ": its own default is refused";
    EXPECT_TRUE(key.sentence.ends_with('.')) << key.name;
    EXPECT_EQ(find_config_key(key.name), &key);
  }
}

TEST(ConfigKeys, NamesThatDesignPromises) {
  for (const char* name : {"model.preset",
                           "model.layers",
                           "model.width",
                           "model.heads",
                           "model.kv_heads",
                           "model.context",
                           "model.vocabulary",
                           "model.positions",
                           "model.norm",
                           "model.activation",
                           "model.tied",
                           "data.corpora",
                           "layout.dp",
                           "layout.pp",
                           "layout.cp",
                           "layout.tp",
                           "layout.ep",
                           "layout.zero",
                           "layout.sequence_parallel",
                           "layout.schedule",
                           "layout.interleave",
                           "layout.recompute",
                           "optimizer.learning_rate",
                           "optimizer.weight_decay",
                           "optimizer.beta1",
                           "optimizer.beta2",
                           "optimizer.clip",
                           "schedule.kind",
                           "schedule.warmup_steps",
                           "schedule.minimum_ratio",
                           "train.steps",
                           "train.global_batch",
                           "train.microbatch",
                           "train.precision",
                           "train.reduction",
                           "train.device",
                           "train.seed",
                           "train.dropout",
                           "train.evaluate_every",
                           "checkpoint.every",
                           "checkpoint.keep",
                           "run.dir"})
    EXPECT_NE(find_config_key(name), nullptr) << name;
}

TEST(ConfigKeys, NearestNames) {
  EXPECT_EQ(nearest_config_name("model.laeyrs"), "model.layers");
  EXPECT_EQ(nearest_config_name("lr"), "");
  EXPECT_EQ(nearest_config_name("train.weight_decay"), "optimizer.weight_decay");
  EXPECT_EQ(nearest_config_name("chekpoint.every"), "checkpoint.every");
  EXPECT_EQ(nearest_config_name(std::string(5000, 'x')), "");
}

TEST(Presets, ParameterCounts) {
  const std::pair<const char*, int64_t> known[] = {
      {"gpt2-124m", 124439808},      {"gpt2-350m", 354823168},     {"gpt2-774m", 774030080},
      {"gpt2-1558m", 1557611200},    {"llama-1.3b", 1345423360},   {"llama1-7b", 6738415616},
      {"llama1-13b", 13015864320},   {"llama1-33b", 32528943616},  {"llama1-65b", 65285660672},
      {"llama2-7b", 6738415616},     {"llama2-13b", 13015864320},  {"llama2-70b", 68976648192},
      {"gpt1", 116534784},           {"gpt-neo-1.3b", 1315575808}, {"gpt-j-6b", 6050882784},
      {"gpt-neox-20b", 20554567680}, {"pythia-70m", 70426624},     {"pythia-160m", 162322944},
      {"pythia-410m", 405334016},    {"pythia-1b", 1011781632},    {"pythia-1.4b", 1414647808},
      {"pythia-2.8b", 2775208960},   {"pythia-6.9b", 6857302016},  {"pythia-12b", 11846072320},
      {"opt-125m", 125239296},       {"opt-350m", 331196416},      {"bloom-560m", 559214592},
      {"bloom-1b1", 1065314304},     {"bloom-1b7", 1722408960},    {"bloom-3b", 3002557440},
      {"bloom-7b1", 7069016064},     {"bloom-176b", 176247271424}, {"xglm-564m", 564463616},
      {"mistral-7b", 7241732096},    {"llama3.1-8b", 8030261248},  {"qwen2-0.5b", 494032768},
      {"qwen2-1.5b", 1543714304},    {"qwen2-7b", 7615616512},     {"qwen3-0.6b", 596049920},
      {"qwen3-8b", 8190735360},      {"falcon-7b", 6921720704}};
  for (const auto& [name, count] : known) EXPECT_EQ(parameter_count(preset_model(name)), count) << name;
}

TEST(Presets, AllThereAndValid) {
  const std::vector<std::string> names = preset_names();
  const std::set<std::string> have(names.begin(), names.end());
  for (const char* name : {"gpt3-125m", "gpt3-350m", "gpt3-760m", "gpt3-1.3b", "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b",
                           "gpt3-175b", "tiny", "nano", "small-10m", "small-llama"})
    EXPECT_TRUE(have.contains(name)) << name;
  for (const std::string& name : names) {
    const DecoderConfig model = preset_model(name);
    if (model.head_size == 0) {
      EXPECT_EQ(model.heads * model.head(), model.width) << name;
    }
  }
  EXPECT_THROW(preset_model("gpt5"), Error);
}

TEST(Presets, SizesMatchTheirNames) {
  for (const auto& [name, billions] : {std::pair{"gpt3-125m", 0.125},
                                       {"gpt3-350m", 0.35},
                                       {"gpt3-760m", 0.76},
                                       {"gpt3-1.3b", 1.3},
                                       {"gpt3-2.7b", 2.7},
                                       {"gpt3-6.7b", 6.7},
                                       {"gpt3-13b", 13.0},
                                       {"gpt3-175b", 175.0},
                                       {"gpt-neo-2.7b", 2.65},
                                       {"kogpt-6b", 6.17},
                                       {"polyglot-ko-12.8b", 12.9},
                                       {"opt-175b", 175.0},
                                       {"bloomberggpt-50b", 50.6},
                                       {"xglm-7.5b", 7.5},
                                       {"falcon-40b", 41.3},
                                       {"palm-8b", 8.63},
                                       {"palm-62b", 62.5},
                                       {"palm-540b", 540.35},
                                       {"mt-nlg-530b", 530.0},
                                       {"megatron-8.3b", 8.3},
                                       {"gopher-280b", 280.0},
                                       {"lamda-137b", 137.0},
                                       {"glm-130b", 130.0},
                                       {"pangu-alpha-2.6b", 2.6},
                                       {"pangu-alpha-200b", 200.0},
                                       {"small-10m", 0.012},
                                       {"small-llama", 0.012}})
    EXPECT_NEAR(static_cast<double>(parameter_count(preset_model(name))) / 1e9 / billions, 1.0, 0.05) << name;
}

}  // namespace
}  // namespace capstan
