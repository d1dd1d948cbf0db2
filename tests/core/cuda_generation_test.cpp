// label: cpu, links: capstan_cuda_emulated, and on a device
// Generation over a key/value cache on the CUDA backend and device: the logits of the CPU after every token, however
// the prompt was cut; twice the same bits, captured or not; a forgotten text leaves no trace.

#include "core/generation_program.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/device_under_test.h"
#include "tests/support/tiny_training.h"

namespace capstan::testing {
namespace {

constexpr int64_t kContext = 72;  // a chunk of prefill and some
using Logits = std::vector<std::vector<float>>;

DecoderConfig model_of(const std::string& name) {
  DecoderConfig config = name == "llama" ? tiny_llama() : name == "alibi" ? tiny_alibi() : tiny_gpt();
  config.context = kContext;
  config.init_std = 0.3;  // so that every path shows in the logits
  return config;
}

std::vector<int32_t> text_of(int64_t length, int64_t vocabulary, uint64_t stream) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i)
    tokens.push_back(
        static_cast<int32_t>(philox_word(3, stream, static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocabulary)));
  return tokens;
}

/// A decoder with the weights of one seed, on the reference kernels or on the device.
class Writer {
 public:
  Writer(const DecoderConfig& config, Precision precision, Gpu* gpu, bool capture = true) : self_(self_communicator()) {
    device_.backend = gpu != nullptr ? &gpu->backend : &reference_;
    device_.runtime = gpu != nullptr ? gpu->runtime.get() : nullptr;
    device_.capture = capture;
    device_.communicators.of.fill(self_.get());
    generation_ = std::make_unique<GenerationProgram>(Mesh{}, device_, config, precision);
    generation_->allocate();
    const ParameterSet& parameters = generation_->program().parameters();
    for (size_t p = 0; p < parameters.size(); ++p) {
      const Parameter& parameter = parameters.at(static_cast<int>(p));
      generation_->program().fill(parameter.name, [&](void* to) {
        for (int64_t i = 0; i < element_count(parameter.shape); ++i) {
          const auto value = static_cast<float>(initial_value(parameter, 5, i));
          if (precision == Precision::bf16)
            static_cast<BFloat16*>(to)[i] = BFloat16(value);
          else
            static_cast<float*>(to)[i] = value;
        }
      });
    }
  }

  /// Logits after each token from `prompt` on; what comes before is prefilled in pieces of `piece`.
  Logits go_on(const std::vector<int32_t>& tokens, size_t prompt, size_t piece) {
    for (size_t first = 0; first + 1 < prompt; first += piece) {
      const size_t last = std::min(first + piece, prompt - 1);
      generation_->prefill({tokens.begin() + static_cast<long>(first), tokens.begin() + static_cast<long>(last)});
    }
    Logits logits;
    for (size_t t = prompt - 1; t < tokens.size(); ++t) logits.push_back(generation_->decode(tokens[t]));
    return logits;
  }
  void forget() { generation_->forget(); }

 private:
  kernels::Backend reference_ = kernels::reference_backend();
  std::unique_ptr<Communicator> self_;
  Device device_;
  std::unique_ptr<GenerationProgram> generation_;
};

std::string difference_of(const Logits& got, const Logits& wanted, double tolerance) {
  if (got.size() != wanted.size()) return fmt::format("{} tokens, wanted {}", got.size(), wanted.size());
  for (size_t t = 0; t < got.size(); ++t)
    for (size_t i = 0; i < got[t].size(); ++i) {
      const double off = std::abs(static_cast<double>(got[t][i]) - static_cast<double>(wanted[t][i]));
      if (!(off <= tolerance * std::max(1.0, std::abs(static_cast<double>(wanted[t][i])))))
        return fmt::format("token {}, entry {}: {} instead of {}", t, i, got[t][i], wanted[t][i]);
    }
  return {};
}

class CudaGeneration : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { Emulation::reset(); }
  void TearDown() override { Emulation::reset(); }
};

TEST_P(CudaGeneration, GivesTheLogitsOfTheCpu) {
  const DecoderConfig config = model_of(GetParam());
  const std::vector<int32_t> tokens = text_of(kContext, config.vocabulary, 1);
  Gpu gpu;
  Writer wanted(config, Precision::fp32, nullptr), got(config, Precision::fp32, &gpu);
  for (const auto& [prompt, piece] : {std::pair<size_t, size_t>{68, 64}, {66, 7}}) {
    wanted.forget(), got.forget();
    EXPECT_EQ(difference_of(got.go_on(tokens, prompt, piece), wanted.go_on(tokens, prompt, piece), 2e-4), "")
        << "prompt " << prompt << " in pieces of " << piece;
  }
}

TEST_P(CudaGeneration, GivesThemInHalfPrecision) {
  const DecoderConfig config = model_of(GetParam());
  const std::vector<int32_t> tokens = text_of(12, config.vocabulary, 2);
  Gpu gpu;
  Writer wanted(config, Precision::bf16, nullptr), got(config, Precision::bf16, &gpu);
  EXPECT_EQ(difference_of(got.go_on(tokens, 8, 8), wanted.go_on(tokens, 8, 8), 0.15), "");
}

TEST_P(CudaGeneration, HasTheSameBitsAgain) {
  const DecoderConfig config = model_of(GetParam());
  const std::vector<int32_t> other = text_of(40, config.vocabulary, 3), tokens = text_of(16, config.vocabulary, 4);
  Gpu gpu;
  Writer eager(config, Precision::fp32, &gpu, false), captured(config, Precision::fp32, &gpu);
  const Logits first = eager.go_on(tokens, 10, 64);
  captured.go_on(other, 38, 64);
  captured.forget();
  EXPECT_TRUE(captured.go_on(tokens, 10, 64) == first) << "captured, after another text";
  Emulation::reorder(7), Emulation::run_late();
  captured.forget();
  EXPECT_TRUE(captured.go_on(tokens, 10, 64) == first) << "in another order";
}

INSTANTIATE_TEST_SUITE_P(Decoders, CudaGeneration, ::testing::Values("gpt", "llama", "alibi"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace capstan::testing
