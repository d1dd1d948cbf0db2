// label: cpu
// Generation over a key/value cache against the training forward pass: the same tokens give the same logits, however
// the prompt was cut into prefill and decode; a forgotten text leaves no trace; what does not fit is refused.

#include "core/generation_program.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/support/families.h"
#include "tests/support/tiny_training.h"

namespace capstan {
namespace {

constexpr int64_t kContext = 72;

DecoderConfig model_of(const std::string& name) {
  if (name.starts_with("family_")) return testing::small_family(name.substr(7), kContext);
  DecoderConfig config = name == "llama"   ? testing::tiny_llama()
                         : name == "alibi" ? testing::tiny_alibi()
                                           : testing::tiny_gpt();
  if (name == "window") {
    config = testing::tiny_llama();
    config.rotary_interleaved = true, config.rotary_fraction = 0.5, config.window = 5,
    config.activation = Activation::squared_relu;
  }
  config.context = kContext;
  config.init_std = 0.3;  // so that every path shows in the logits
  return config;
}

std::vector<int32_t> text(int64_t length, int64_t vocabulary, uint64_t stream) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i)
    tokens.push_back(
        static_cast<int32_t>(philox_word(3, stream, static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocabulary)));
  return tokens;
}

class Generation : public ::testing::TestWithParam<std::string> {
 protected:
  Generation() : config_(model_of(GetParam())), self_(self_communicator()) {
    device_.backend = &backend_;
    device_.communicators.of.fill(self_.get());
    generation_ = std::make_unique<GenerationProgram>(Mesh{}, device_, config_, Precision::fp64);
    generation_->allocate();
    const ParameterSet& parameters = generation_->program().parameters();
    for (size_t p = 0; p < parameters.size(); ++p) {
      const Parameter& parameter = parameters.at(static_cast<int>(p));
      double* values = generation_->program().at<double>(parameter.name);
      for (int64_t i = 0; i < element_count(parameter.shape); ++i) values[i] = initial_value(parameter, 5, i);
    }
  }

  /// Logits after every token of the text, from the plan `evaluate` of a training with the same seed.
  std::vector<std::vector<double>> whole_text(const std::vector<int32_t>& tokens) {
    TrainingSpec spec = testing::tiny_spec(config_);
    spec.microbatch = 1, spec.seed = 5, spec.training = false;
    spec.plan.memory.reuse = spec.plan.memory.in_place = false;  // the logits are read after the run
    TrainingProgram training(Mesh{}, device_, spec);
    training.allocate_and_initialise();
    Program& program = training.program();
    for (int64_t i = 0; i < kContext; ++i) {
      program.at<int32_t>("input.tokens")[i] =
          i < static_cast<int64_t>(tokens.size()) ? tokens[static_cast<size_t>(i)] : 0;
      program.at<int32_t>("input.positions")[i] = static_cast<int32_t>(i);
      program.at<int32_t>("input.targets")[i] = 0, program.at<int32_t>("input.document_ids")[i] = 0;
      program.at<float>("input.loss_weights")[i] = 1.0f;
    }
    program.run("evaluate", Part::forward);
    const Plan& plan = program.plan("evaluate");
    std::vector<std::vector<double>> result;
    for (const Node& node : plan.tape.nodes) {
      if (!node.op->is_loss()) continue;
      const double* logits = static_cast<double*>(program.address(plan, node.inputs[0]));
      for (size_t t = 0; t < tokens.size(); ++t) {
        const double* row = logits + static_cast<int64_t>(t) * padded_vocabulary(config_.vocabulary);
        result.emplace_back(row, row + config_.vocabulary);
      }
    }
    return result;
  }

  /// decode() in double: the program keeps more digits than it hands out.
  std::vector<double> decode(int32_t token) {
    const std::vector<float> handed_out = generation_->decode(token);
    const double* logits = generation_->program().at<double>("logits");
    for (size_t i = 0; i < handed_out.size(); ++i) EXPECT_EQ(handed_out[i], static_cast<float>(logits[i]));
    EXPECT_EQ(handed_out.size(), static_cast<size_t>(config_.vocabulary));
    return std::vector<double>(logits, logits + config_.vocabulary);
  }

  void expect_logits(const std::vector<double>& got, const std::vector<double>& wanted, const std::string& where) {
    ASSERT_EQ(got.size(), wanted.size());
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], wanted[i], 1e-10 * std::max(1.0, std::abs(wanted[i]))) << where << ", entry " << i;
  }

  /// Prefills all but the last token of a prompt, then decodes it and what follows it to the end of the text.
  void expect_continuation(const std::vector<int32_t>& tokens, const std::vector<std::vector<double>>& wanted,
                           size_t prompt) {
    generation_->prefill({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(prompt) - 1});
    for (size_t t = prompt - 1; t < tokens.size(); ++t) {
      expect_logits(decode(tokens[t]), wanted[t], fmt::format("prompt {}, token {}", prompt, t));
      if (HasFatalFailure()) return;
    }
    EXPECT_EQ(generation_->length(), static_cast<int64_t>(tokens.size()));
  }

  kernels::Backend backend_ = kernels::reference_backend();
  DecoderConfig config_;
  std::unique_ptr<Communicator> self_;
  Device device_;
  std::unique_ptr<GenerationProgram> generation_;
};

TEST_P(Generation, GivesTheLogitsOfTheWholeText) {
  const std::vector<int32_t> tokens = text(kContext, config_.vocabulary, 1);
  const std::vector<std::vector<double>> wanted = whole_text(tokens);
  ASSERT_EQ(wanted.size(), tokens.size());
  for (const size_t prompt : {1u, 2u, 63u, 64u, 65u, 66u, 71u, 72u}) {
    generation_->forget();
    expect_continuation(tokens, wanted, prompt);
  }
}

TEST_P(Generation, ForgetsTheTextBefore) {
  const std::vector<int32_t> other = text(kContext, config_.vocabulary, 2), tokens = text(40, config_.vocabulary, 3);
  generation_->prefill(other);
  generation_->forget();
  EXPECT_EQ(generation_->length(), 0);
  expect_continuation(tokens, whole_text(tokens), 30);
}

TEST_P(Generation, TakesAPromptInPieces) {
  const std::vector<int32_t> tokens = text(kContext, config_.vocabulary, 4);
  const std::vector<std::vector<double>> wanted = whole_text(tokens);
  for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, 7}, {7, 8}, {8, 70}})
    generation_->prefill({tokens.begin() + first, tokens.begin() + last});
  expect_logits(decode(tokens[70]), wanted[70], "decode");
  generation_->prefill({});
  expect_logits(decode(tokens[71]), wanted[71], "decode after an empty piece");
}

TEST_P(Generation, RefusesWhatDoesNotFit) {
  const std::vector<int32_t> tokens = text(kContext + 1, config_.vocabulary, 5);
  EXPECT_THROW(generation_->prefill(tokens), Error);
  EXPECT_EQ(generation_->length(), 0) << "a refused prompt must leave the cache as it was";
  generation_->prefill({tokens.begin(), tokens.end() - 1});
  EXPECT_THROW(generation_->decode(1), Error);
  EXPECT_THROW(generation_->prefill({1}), Error);
  generation_->forget();
  EXPECT_NO_THROW(generation_->decode(1));
}

INSTANTIATE_TEST_SUITE_P(Decoders, Generation, ::testing::Values("gpt", "llama", "alibi", "window"),
                         [](const auto& test) { return test.param; });

/// Of the families one continuation is enough: what a cache does is tested above.
class FamilyGeneration : public Generation {};

TEST_P(FamilyGeneration, GivesTheLogitsOfTheWholeText) {
  const std::vector<int32_t> tokens = text(kContext, config_.vocabulary, 1);
  expect_continuation(tokens, whole_text(tokens), 66);
}

std::vector<std::string> all_families() {
  std::vector<std::string> names;
  for (const std::string& name : testing::family_names()) names.push_back("family_" + name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Presets, FamilyGeneration, ::testing::ValuesIn(all_families()),
                         [](const auto& test) { return testing::test_name_of_family(test.param); });

}  // namespace
}  // namespace capstan
