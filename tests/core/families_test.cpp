// label: cpu
// Every family of decoders with all its switches: the recorded model gives the loss of a plain one, its gradients are
// finite differences, and it has as many parameters as the config is said to have.

#include <gmock/gmock.h>

#include "core/config/parameter_count.h"
#include "core/models/decoder.h"
#include "tests/core/small_program.h"
#include "tests/support/families.h"
#include "tests/support/plain_decoder.h"

namespace capstan {
namespace {

constexpr int64_t kBatch = 2, kTokens = 11;

/// A decoder in double with random weights, on random tokens.
class Family {
 public:
  explicit Family(const DecoderConfig& config, bool with_prefix = false) : config_(config) {
    Program& program = small_.program();
    const Decoder model(config, program.parameters());
    for (const char* name : {"tokens", "positions"}) small_.add(name, {kBatch, kTokens}, DType::i32);
    small_.add("prefix", {kBatch}, DType::i32);
    model.declare_constants(program.persistent());
    small_.lay_out_state();
    small_.build([&](Recorder& r) {
      DecoderInputs inputs;
      inputs.tokens = r.persistent("tokens"), inputs.positions = r.persistent("positions");
      if (with_prefix) inputs.prefix_lengths = r.persistent("prefix");
      small_.add_loss(r, model.logits(r, model.hidden(r, inputs)), config.vocabulary, "loss");
    });
    for (const Constant& constant : model.constants()) constant.fill(program.address(constant.name));
    for (int64_t i = 0; i < kBatch * kTokens; ++i) {
      program.at<int32_t>("tokens")[i] = static_cast<int32_t>((i * i * 5 + 2) % config.vocabulary);
      program.at<int32_t>("positions")[i] = static_cast<int32_t>(i % kTokens);
    }
    for (int64_t b = 0; b < kBatch; ++b)
      program.at<int32_t>("prefix")[b] = static_cast<int32_t>(with_prefix ? 4 - b : 0);
  }

  double loss() { return small_.loss(); }

  double plain_loss() {
    PlainWeights weights;
    for (const std::string& name : names()) weights[name] = small_.values(name);
    const testing::PlainDecoder plain(config_, weights);
    double sum = 0;
    for (int64_t b = 0; b < kBatch; ++b) {
      const int32_t* tokens = small_.program().at<int32_t>("tokens") + b * kTokens;
      const testing::PlainRows logits =
          plain.logits(std::vector<int>(tokens, tokens + kTokens), small_.program().at<int32_t>("prefix")[b]);
      for (int64_t t = 0; t < kTokens; ++t) {
        const std::vector<double>& row = logits[static_cast<size_t>(t)];
        double total = 0;
        for (const double logit : row) total += std::exp(logit);
        const int32_t target = small_.program().at<int32_t>("loss.targets")[b * kTokens + t];
        sum += small_.program().at<float>("loss.weights")[b * kTokens + t] *
               (std::log(total) - row[static_cast<size_t>(target)]);
      }
    }
    return sum * small_.scalars().gradient_scale;
  }

  std::vector<std::string> names() {
    std::vector<std::string> all;
    const ParameterSet& parameters = small_.program().parameters();
    for (int i = 0; i < static_cast<int>(parameters.size()); ++i) all.push_back(parameters.at(i).name);
    return all;
  }

  /// Along a random direction of each parameter.
  void expect_gradients_are_finite_differences() {
    small_.loss();
    small_.program().run("train", Part::backward);
    std::map<std::string, std::vector<double>> gradients;
    for (const std::string& name : names()) gradients[name] = small_.values("gradient." + name);
    uint64_t stream = 100;
    for (const auto& [name, gradient] : gradients) {
      double* weights = small_.program().at<double>(name);
      const std::vector<double> before = small_.values(name);
      double slope = 0, size = 0;
      ++stream;
      for (size_t i = 0; i < gradient.size(); ++i) {
        slope += gradient[i] * testing::noise(stream, static_cast<int64_t>(i));
        size += std::abs(gradient[i]);
      }
      const auto at = [&](double step) {
        for (size_t i = 0; i < before.size(); ++i)
          weights[i] = before[i] + step * testing::noise(stream, static_cast<int64_t>(i));
        return small_.loss();
      };
      const double h = 1e-5, numeric = (at(h) - at(-h)) / (2 * h);
      at(0);
      EXPECT_NEAR(slope, numeric, 1e-7 * size + 1e-9) << name;
      EXPECT_TRUE(size > 1e-9 || name.ends_with("attention.k.bias")) << name << " has no influence";
    }
  }

  /// Without padding.
  int64_t parameters() { return small_.program().parameters().elements(); }

 private:
  using PlainWeights = testing::PlainWeights;
  DecoderConfig config_;
  testing::SmallProgram small_;
};

class Families : public ::testing::TestWithParam<std::string> {
 protected:
  DecoderConfig config_ = testing::small_family(GetParam(), kTokens);
};

TEST_P(Families, GivesTheLossOfThePlainDecoder) {
  Family family(config_);
  const double plain = family.plain_loss();
  EXPECT_NEAR(family.loss(), plain, 1e-11 * plain);
}

TEST_P(Families, GivesTheLossOfThePlainDecoderWithAPrefix) {
  Family family(config_, true), without(config_);
  const double plain = family.plain_loss();
  EXPECT_NEAR(family.loss(), plain, 1e-11 * plain);
  EXPECT_GT(std::abs(family.loss() - without.loss()), 1e-6 * plain) << "the prefix changes nothing";
}

TEST_P(Families, GradientsAreFiniteDifferences) { Family(config_).expect_gradients_are_finite_differences(); }

TEST_P(Families, ParametersAreCounted) { EXPECT_EQ(parameter_count(config_), Family(config_).parameters()); }

INSTANTIATE_TEST_SUITE_P(Presets, Families, ::testing::ValuesIn(testing::family_names()),
                         [](const auto& test) { return testing::test_name_of_family(test.param); });

/// One switch at a time on a small GPT-2, those too that no preset sets.
TEST(FamilySwitches, EachGivesTheLossOfThePlainDecoder) {
  const DecoderConfig base = testing::small_family("llama", kTokens);
  using C = DecoderConfig;
  const std::pair<const char*, std::function<void(C&)>> switches[] = {
      {"no positions", [](C& c) { c.positions = Positions::none; }},
      {"final norm off", [](C& c) { c.final_norm = Toggle::off; }},
      {"post with final norm", [](C& c) { c.norm_placement = NormPlacement::post, c.final_norm = Toggle::on; }},
      {"deep with its own factors", [](C& c) { c.norm_placement = NormPlacement::deep; }},
      {"biases of everything", [](C& c) { c.bias = true, c.norm = NormKind::layer, c.head_bias = true; }},
      {"no bias of the MLP", [](C& c) { c.bias = true, c.bias_mlp = Toggle::off; }},
      {"no bias of norms", [](C& c) { c.bias = true, c.norm = NormKind::layer, c.bias_norm = Toggle::off; }},
      {"output bias alone", [](C& c) { c.bias_attention_output = Toggle::on; }},
      {"linear rotary", [](C& c) { c.rotary_scaling = RotaryScaling::linear, c.rotary_factor = 3; }},
      {"yarn with an amplitude",
       [](C& c) {
         c.rotary_scaling = RotaryScaling::yarn, c.rotary_factor = 2, c.rotary_high = 3, c.rotary_attention = 1.3;
       }},
      {"score scale", [](C& c) { c.attention_scale = 0.7; }},
      {"global layer second", [](C& c) { c.window = 3, c.global_every = 2, c.global_first = 1; }},
      {"embedding and logit scale", [](C& c) { c.embedding_scale = 1.5, c.logit_scale = 0.25; }},
      {"untied narrow embedding", [](C& c) { c.embedding_width = 6; }},
      {"query layer without final norm", [](C& c) { c.query_layer = true, c.final_norm = Toggle::off; }},
      {"multi-query relative", [](C& c) { c.positions = Positions::xl, c.kv_heads = 1; }},
      {"grouped buckets in a window",
       [](C& c) { c.positions = Positions::t5, c.relative_buckets = 4, c.relative_distance = 6, c.window = 4; }},
      {"norms of one key head", [](C& c) { c.qk_norm = true, c.kv_heads = 1; }},
  };
  std::vector<double> losses{Family(base).loss()};
  for (const auto& [name, change] : switches) {
    SCOPED_TRACE(name);
    DecoderConfig config = base;
    change(config);
    Family family(config);
    const double plain = family.plain_loss(), loss = family.loss();
    EXPECT_NEAR(loss, plain, 1e-11 * plain);
    for (const double other : losses) EXPECT_GT(std::abs(loss - other), 1e-9 * plain) << "the switch changes nothing";
    losses.push_back(loss);
    family.expect_gradients_are_finite_differences();
    EXPECT_EQ(parameter_count(config), family.parameters());
  }
}

}  // namespace
}  // namespace capstan
