// label: cpu
// Ten training steps of four small decoders against curves that plain PyTorch operations gave (tests/golden; the script
// that made them says what is in the files): losses, gradients of the first step, norms, and the weights at the end.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/training_program.h"
#include "io/safetensors.h"

namespace capstan {
namespace {

constexpr int64_t kSteps = 10, kBatch = 4, kContext = 32;

/// The settings of tests/golden/curves.json.
DecoderConfig golden_model(const std::string& name) {
  DecoderConfig config;
  config.layers = 2, config.heads = 4, config.context = kContext, config.vocabulary = 61, config.width = 48;
  if (name == "gpt2") {
    config.hidden = 192;
    return config;
  }
  config.bias = false;
  if (name == "llama") {
    config.kv_heads = 2, config.hidden = 128, config.positions = Positions::rotary, config.norm = NormKind::rms;
    config.activation = Activation::swiglu, config.tied = false;
  } else if (name == "alibi") {
    config.width = 32, config.hidden = 64, config.positions = Positions::alibi, config.activation = Activation::geglu;
    config.tied = false;
  } else {
    config.width = 32, config.hidden = 96, config.positions = Positions::rotary, config.rotary_interleaved = true;
    config.norm = NormKind::rms, config.activation = Activation::squared_relu, config.window = 8;
  }
  return config;
}

std::filesystem::path source_tree() {
  const char* tree = std::getenv("CAPSTAN_SOURCE");
  if (!tree) throw Error::make(ExitCode::usage, "CAPSTAN_SOURCE must name the source tree");
  return tree;
}

/// One golden file, every tensor as doubles.
class Golden {
 public:
  Golden(const std::string& name, const std::string& precision)
      : file_(SafetensorsFile::open(source_tree() / "tests/golden" / (name + "_" + precision + ".safetensors"))) {}

  std::vector<double> read(const std::string& name) const {
    const SafetensorsEntry* entry = file_.find(name);
    if (!entry) throw Error::make(ExitCode::missing_input, "the golden file has no {}", name);
    std::vector<char> bytes(entry->bytes);
    file_.read(name, bytes.data(), 0, entry->bytes);
    std::vector<double> values(entry->bytes / bytes_of(entry->dtype.value()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = value(bytes.data(), *entry->dtype, i);
    return values;
  }
  size_t count(const std::string& prefix) const {
    size_t found = 0;
    for (const SafetensorsEntry& entry : file_.entries()) found += entry.name.starts_with(prefix);
    return found;
  }

 private:
  static double value(const void* bytes, DType dtype, size_t i) {
    if (dtype == DType::f64) return static_cast<const double*>(bytes)[i];
    if (dtype == DType::f32) return static_cast<const float*>(bytes)[i];
    return static_cast<const int32_t*>(bytes)[i];
  }
  SafetensorsFile file_;
};

/// A training of the golden model with the golden optimizer, weights and batches.
class GoldenTraining {
 public:
  GoldenTraining(const std::string& model, bool wide, const kernels::Backend& backend)
      : wide_(wide), golden_(model, wide ? "f64" : "f32"), self_(self_communicator()) {
    Device device{&backend, {}};
    device.communicators.of.fill(self_.get());
    TrainingSpec spec;
    spec.model = golden_model(model);
    spec.precision = wide ? Precision::fp64 : Precision::fp32;
    spec.microbatch = kBatch;
    training_ = std::make_unique<TrainingProgram>(Mesh{}, device, spec);
    training_->allocate_and_initialise();
    const ParameterSet& parameters = this->parameters();
    for (size_t i = 0; i < parameters.size(); ++i) set(parameters.at(static_cast<int>(i)));
    tokens_ = golden_.read("tokens");
  }

  const Golden& golden() const { return golden_; }
  const ParameterSet& parameters() const { return training_->program().parameters(); }

  /// The tensor without its padding rows.
  std::vector<double> values(const std::string& prefix, const Parameter& parameter) const {
    std::vector<double> result(static_cast<size_t>(element_count(parameter.logical_shape())));
    const void* from = training_->program().address(prefix + parameter.name);
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = wide_ ? static_cast<const double*>(from)[i] : static_cast<double>(static_cast<const float*>(from)[i]);
    return result;
  }

  double run_step(int64_t step) {
    fill(step);
    training_->begin_step({1e-3, 1.0, static_cast<double>(kBatch * kContext), 0});
    training_->run_microbatches([](int64_t) {});
    const StepOutcome outcome = training_->finish_step();
    EXPECT_FALSE(outcome.skipped);
    norm_ = outcome.gradient_norm;
    return outcome.loss_sum / static_cast<double>(kBatch * kContext);
  }
  double norm() const { return norm_; }

 private:
  void set(const Parameter& parameter) {
    const std::vector<double> weights = golden_.read("weights/" + parameter.name);
    ASSERT_EQ(static_cast<int64_t>(weights.size()), element_count(parameter.logical_shape())) << parameter.name;
    void* to = training_->program().address(parameter.name);
    for (size_t i = 0; i < weights.size(); ++i) {
      if (wide_)
        static_cast<double*>(to)[i] = weights[i];
      else
        static_cast<float*>(to)[i] = static_cast<float>(weights[i]);
    }
  }
  void fill(int64_t step) {
    Program& program = training_->program();
    for (int64_t s = 0; s < kBatch; ++s)
      for (int64_t t = 0; t < kContext; ++t) {
        const size_t from = static_cast<size_t>((step * kBatch + s) * (kContext + 1) + t);
        const int64_t i = s * kContext + t;
        program.at<int32_t>("input.tokens")[i] = static_cast<int32_t>(tokens_[from]);
        program.at<int32_t>("input.targets")[i] = static_cast<int32_t>(tokens_[from + 1]);
        program.at<int32_t>("input.positions")[i] = static_cast<int32_t>(t);
        program.at<int32_t>("input.document_ids")[i] = 0;
        program.at<float>("input.loss_weights")[i] = 1.0f;
      }
  }

  bool wide_;
  double norm_ = 0.0;  ///< of the last step's gradient
  Golden golden_;
  std::unique_ptr<Communicator> self_;
  std::unique_ptr<TrainingProgram> training_;
  std::vector<double> tokens_;
};

double norm_of(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

struct Limits {
  double loss, gradient, norm, final_weights;
};

void expect_same_gradients(const GoldenTraining& training, double global_norm, double limit) {
  const ParameterSet& parameters = training.parameters();
  EXPECT_EQ(training.golden().count("gradients/"), parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    const std::vector<double> wanted = training.golden().read("gradients/" + parameter.name);
    EXPECT_LE(distance(training.values("gradient.", parameter), wanted),
              limit * std::max(norm_of(wanted), 1e-3 * global_norm))
        << parameter.name;
  }
}

/// Whole tensors in fp32 files, norms in fp64 files. A bias of all keys has no gradient in exact arithmetic: AdamW
/// scales up what rounding leaves of it, in either program.
void expect_same_end(const GoldenTraining& training, bool wide, double limit) {
  const ParameterSet& parameters = training.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    if (parameter.name.ends_with("attention.k.bias")) continue;
    const std::vector<double> weights = training.values("", parameter);
    if (wide) {
      const double wanted = training.golden().read("final_norms/" + parameter.name)[0];
      EXPECT_NEAR(norm_of(weights), wanted, limit * wanted) << parameter.name;
    } else {
      const std::vector<double> wanted = training.golden().read("final/" + parameter.name);
      EXPECT_LE(distance(weights, wanted), limit * norm_of(wanted)) << parameter.name;
    }
  }
}

void expect_torch_curve(const std::string& model, bool wide, const kernels::Backend& backend, const Limits& limits) {
  GoldenTraining training(model, wide, backend);
  const std::vector<double> losses = training.golden().read("losses"), norms = training.golden().read("gradient_norms");
  ASSERT_EQ(losses.size(), static_cast<size_t>(kSteps));
  for (int64_t step = 0; step < kSteps; ++step) {
    const size_t s = static_cast<size_t>(step);
    EXPECT_NEAR(training.run_step(step), losses[s], limits.loss * losses[s]) << "step " << step;
    EXPECT_NEAR(training.norm(), norms[s], limits.norm * norms[s]) << "step " << step;
    if (step == 0) expect_same_gradients(training, norms[0], limits.gradient);
  }
  expect_same_end(training, wide, limits.final_weights);
}

constexpr Limits kDouble{1e-10, 1e-9, 1e-9, 1e-9};
constexpr Limits kFloat{1e-5, 1e-4, 1e-4, 1e-4};

class TorchDouble : public ::testing::TestWithParam<const char*> {};
TEST_P(TorchDouble, ReferenceKernelsFollowTheCurve) {
  expect_torch_curve(GetParam(), true, kernels::reference_backend(), kDouble);
}
INSTANTIATE_TEST_SUITE_P(Golden, TorchDouble, ::testing::Values("gpt2", "llama", "alibi", "window"),
                         [](const auto& test) { return std::string(test.param); });

class TorchFloat : public ::testing::TestWithParam<const char*> {};
TEST_P(TorchFloat, ReferenceKernelsFollowTheCurve) {
  expect_torch_curve(GetParam(), false, kernels::reference_backend(), kFloat);
}
TEST_P(TorchFloat, CpuKernelsFollowTheCurve) { expect_torch_curve(GetParam(), false, kernels::cpu_backend(), kFloat); }
INSTANTIATE_TEST_SUITE_P(Golden, TorchFloat, ::testing::Values("gpt2", "llama"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace capstan
