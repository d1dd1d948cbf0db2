// label: cpu, links: capstan_cuda_emulated
// Products by cuBLASLt over its emulation: what each of them computes, with which algorithm, and how choices travel.
// (All transposes, types and sizes: matmul_test over the emulated backend.)
#include <gtest/gtest.h>

#include <cublasLt.h>

#include <cmath>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/matmul.h"
#include "tests/emulated_cuda/emulated_cuda.h"
#include "tests/support/temporary_directory.h"

namespace capstan::kernels::testing {
namespace {

/// A kernel of the reference as work of a stream of the emulated device.
template <auto Entry, typename Args>
void on_device(const Args& args) {
  ASSERT_EQ(emulated_cuda::enqueue(static_cast<cudaStream_t>(args.stream),
                                   [args] {
                                     static const Backend reference = reference_backend();
                                     (reference.*Entry)(args);
                                   }),
            cudaSuccess);
}

struct Operands {
  std::vector<float> a, b, bias, c, aux, sums;
};

/// What a product leaves.
struct Results {
  std::vector<float> c, aux, sums;
};

class CudaProducts : public ::testing::Test {
 protected:
  CudaProducts() { use({.time = false}); }

  void use(cuda::ProductOptions options) {
    options.workspace_bytes = 1 << 18;  // the emulation opens and closes all memory for each call
    table_ = {};
    table_.cast = on_device<&Backend::cast, CastArgs>;
    table_.copy = on_device<&Backend::copy, CopyArgs>;
    table_.fill = on_device<&Backend::fill, FillArgs>;
    table_.add = on_device<&Backend::add, AddArgs>;
    table_.activation = on_device<&Backend::activation, ActivationArgs>;
    table_.activation_backward = on_device<&Backend::activation_backward, ActivationBackwardArgs>;
    table_.bias_gradient_scratch = reference_backend().bias_gradient_scratch;
    table_.bias_gradient = on_device<&Backend::bias_gradient, BiasGradientArgs>;
    cuda::add_products(table_, *device_, options);
  }

  /// Rounded to `t` and back to floats; on the device at `offset` bytes past a 256-byte boundary.
  char* send(const std::vector<float>& values, DType t, size_t offset) {
    std::vector<char> bytes(values.size() * bytes_of(t));
    static const Backend reference = reference_backend();
    reference.cast({values.data(), bytes.data(), static_cast<int64_t>(values.size()), DType::f32, t});
    char* memory = static_cast<char*>(device_->allocate(bytes.size() + 256));
    memory_.push_back(memory);
    device_->copy_in(memory + offset, bytes.data(), bytes.size(), device_->main_stream());
    device_->finish(device_->main_stream());
    return memory + offset;
  }
  std::vector<float> fetch(const void* from, size_t count, DType t) {
    std::vector<char> bytes(count * bytes_of(t));
    device_->copy_out(bytes.data(), from, bytes.size(), device_->main_stream());
    device_->finish(device_->main_stream());
    std::vector<float> values(count);
    static const Backend reference = reference_backend();
    reference.cast({bytes.data(), values.data(), static_cast<int64_t>(count), t, DType::f32});
    return values;
  }

  Operands operands(const MatmulShape& s) const {
    const auto numbers = [](int64_t count, int step) {
      std::vector<float> values(static_cast<size_t>(count));
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(static_cast<int>(i * step % 17) - 8) / 8;
      return values;
    };
    Operands all{numbers(s.m * s.k, 5),  numbers(s.k * s.n, 7),  numbers(s.n, 3),
                 numbers(s.m * s.n, 11), numbers(s.m * s.n, 13), numbers(s.m, 2)};
    for (float& value : all.a) value *= factor_;
    return all;
  }

  std::vector<float> run(const MatmulShape& s, bool accumulate, size_t offset = 0) {
    const auto product = table_.prepare_matmul(s);
    return run(*product, s, accumulate, offset);
  }
  std::vector<float> run(const PreparedMatmul& product, const MatmulShape& s, bool accumulate, size_t offset = 0) {
    const Operands in = operands(s);
    MatmulArgs args;
    args.a = send(in.a, s.a, offset);
    args.b = send(in.b, s.b, offset);
    if (s.bias) args.bias = send(in.bias, s.a, offset);
    args.c = send(in.c, s.c, offset);
    args.accumulate = accumulate;
    args.stream = device_->main_stream();
    char* scratch = static_cast<char*>(device_->allocate(product.scratch_bytes() + 64)) + 64;  // as aligned as promised
    memory_.push_back(scratch - 64);
    product.run(args, scratch);
    const std::vector<float> c = fetch(args.c, in.c.size(), s.c);
    free_memory();
    return c;
  }

  /// Of a shape that trains.
  Results train(const PreparedMatmul& product, const MatmulShape& s, bool accumulate, size_t offset = 0) {
    const Operands in = operands(s);
    MatmulArgs args;
    args.a = send(in.a, s.a, 0), args.b = send(in.b, s.b, 0), args.c = send(in.c, s.c, 0);
    if (s.bias) args.bias = send(in.bias, s.a, 0);
    if (!s.bias_gradient) args.aux = send(in.aux, s.c, offset);
    if (s.bias_gradient) args.bias_gradient = send(in.sums, DType::f32, offset);
    args.accumulate = accumulate;
    args.stream = device_->main_stream();
    char* scratch = static_cast<char*>(device_->allocate(product.scratch_bytes() + 64)) + 64;
    memory_.push_back(scratch - 64);
    product.run(args, scratch);
    Results results{fetch(args.c, in.c.size(), s.c), {}, {}};
    if (s.keeps_input) results.aux = fetch(args.aux, in.aux.size(), s.c);
    if (s.bias_gradient) results.sums = fetch(args.bias_gradient, in.sums.size(), DType::f32);
    free_memory();
    return results;
  }
  Results wanted(MatmulShape s, bool accumulate) const {
    const Operands in = operands(s);
    Results results{in.c, in.aux, in.sums};
    s.a = s.b = s.c = DType::f32;
    const auto product = reference_backend().prepare_matmul(s);
    std::vector<char> scratch(product->scratch_bytes());
    MatmulArgs args{in.a.data(), in.b.data(), in.bias.data(), results.c.data(), accumulate};
    args.aux = results.aux.data(), args.bias_gradient = results.sums.data();
    product->run(args, scratch.data());
    if (!s.keeps_input) results.aux.clear();
    if (!s.bias_gradient) results.sums.clear();
    return results;
  }
  static double largest(const std::vector<float>& got, const std::vector<float>& want) {
    EXPECT_EQ(got.size(), want.size());
    double most = 0;
    for (size_t i = 0; i < std::min(got.size(), want.size()); ++i)
      most = std::max(most, std::abs(double(want[i]) - got[i]) / (1 + std::abs(want[i])));
    return most;
  }
  void expect_trained(const Results& got, const MatmulShape& s, bool accumulate) const {
    const Results want = wanted(s, accumulate);
    const double limit = s.c == DType::f32 ? 2e-6 : 1.6e-2;
    EXPECT_LT(largest(got.c, want.c), limit) << "C";
    EXPECT_LT(largest(got.aux, want.aux), limit) << "aux";
    EXPECT_LT(largest(got.sums, want.sums), 2e-6) << "sums";
  }

  double largest_difference(const MatmulShape& s, bool accumulate, const std::vector<float>& got) const {
    const Operands in = operands(s);
    std::vector<float> wanted = in.c;
    MatmulShape plain = s;
    plain.a = plain.b = plain.c = DType::f32;
    const auto product = reference_backend().prepare_matmul(plain);
    std::vector<char> scratch(product->scratch_bytes());
    product->run({in.a.data(), in.b.data(), in.bias.data(), wanted.data(), accumulate}, scratch.data());
    double most = 0;
    for (size_t i = 0; i < wanted.size(); ++i)
      most = std::max(most, std::abs(double(wanted[i]) - got[i]) / (1 + std::abs(wanted[i])));
    return most;
  }

  void free_memory() {
    for (char* memory : memory_) device_->release(memory);
    memory_.clear();
  }
  ~CudaProducts() override { free_memory(); }

  std::unique_ptr<DeviceRuntime> device_ = open_cuda_device(0);
  Backend table_;
  std::vector<char*> memory_;
  float factor_ = 1.0f;
};

MatmulShape shape(DType t, DType c) {
  MatmulShape s;
  s.m = 24, s.n = 40, s.k = 16;
  s.transpose_b = true;
  s.a = s.b = t, s.c = c;
  return s;
}

TEST_F(CudaProducts, BiasAndEveryActivation) {
  for (const DType t : {DType::f32, DType::bf16})
    for (const DType c : {t, DType::f32})
      for (const bool bias : {false, true})
        for (int kind = 0; kind <= 5; ++kind) {
          MatmulShape s = shape(t, c);
          s.bias = bias;
          s.activation = static_cast<ActivationKind>(kind);
          const double most = largest_difference(s, false, run(s, false));
          EXPECT_LT(most, c == DType::f32 ? 2e-6 : 8e-3) << name_of(t) << " " << name_of(c) << bias << " act " << kind;
        }
}

TEST_F(CudaProducts, SumsAreAddedInTheProduct) {
  MatmulShape s = shape(DType::bf16, DType::f32);
  s.transpose_a = true, s.transpose_b = false, s.may_accumulate = true;
  EXPECT_LT(largest_difference(s, false, run(s, false)), 1e-6);
  EXPECT_LT(largest_difference(s, true, run(s, true)), 1e-6);
}

TEST_F(CudaProducts, OperandsAtAnyAddress) {
  MatmulShape s = shape(DType::bf16, DType::bf16);
  s.bias = true;
  EXPECT_LT(largest_difference(s, false, run(s, false, 2)), 8e-3);
  s = shape(DType::f32, DType::f32);
  s.n = 41, s.k = 17, s.m = 3;
  EXPECT_LT(largest_difference(s, false, run(s, false, 4)), 2e-6);
}

TEST_F(CudaProducts, EmptySumsAreZeroAndEmptyResultsNothing) {
  MatmulShape s = shape(DType::f32, DType::f32);
  s.k = 0, s.may_accumulate = true;
  EXPECT_EQ(run(s, false), std::vector<float>(24 * 40, 0.0f));
  EXPECT_EQ(run(s, true), operands(s).c);
  s.k = 5, s.m = 0;
  EXPECT_TRUE(run(s, false).empty());
}

TEST_F(CudaProducts, RefusesWhatTheContractRefuses) {
  EXPECT_THROW(table_.prepare_matmul(shape(DType::f64, DType::f64)), std::invalid_argument);
  EXPECT_THROW(table_.prepare_matmul(shape(DType::f32, DType::bf16)), std::invalid_argument);
  MatmulShape s = shape(DType::f32, DType::f32);
  s.b = DType::bf16;
  EXPECT_THROW(table_.prepare_matmul(s), std::invalid_argument);
  s = shape(DType::f32, DType::f32);
  s.bias = s.may_accumulate = true;
  EXPECT_THROW(table_.prepare_matmul(s), std::invalid_argument);
}

TEST_F(CudaProducts, NothingIsAllocatedInARunSoThatItCanBeCaptured) {
  MatmulShape s = shape(DType::bf16, DType::f32);
  s.bias = true, s.activation = ActivationKind::silu;
  const auto product = table_.prepare_matmul(s);
  const Operands in = operands(s);
  MatmulArgs args;
  args.a = send(in.a, s.a, 0), args.b = send(in.b, s.b, 0), args.bias = send(in.bias, s.a, 0);
  args.c = send(in.c, s.c, 0), args.stream = device_->main_stream();
  char* scratch = static_cast<char*>(device_->allocate(product->scratch_bytes()));
  memory_.push_back(scratch);
  device_->begin_capture(args.stream);
  product->run(args, scratch);
  const auto graph = device_->end_capture(args.stream);
  EXPECT_EQ(fetch(args.c, in.c.size(), s.c), in.c) << "nothing ran yet";
  graph->launch(args.stream);
  EXPECT_LT(largest_difference(s, false, fetch(args.c, in.c.size(), s.c)), 2e-6);
}

TEST_F(CudaProducts, AlgorithmsAreTimedOnceAndRemembered) {
  const support::TemporaryDirectory temporary;
  const std::string directory = temporary.path();
  MatmulShape s = shape(DType::f32, DType::f32);
  s.bias = true;
  auto& calls = emulated_cuda::switches().library_calls;
  const auto choices = std::make_shared<ProductChoices>(directory);
  use({.choices = choices});
  const uint64_t before = calls;
  table_.prepare_matmul(s);
  const uint64_t timed = calls - before;
  EXPECT_GT(timed, 10u);
  EXPECT_EQ(choices->size(), 1u);
  EXPECT_GT(device_->facts().free_bytes, device_->facts().memory_bytes - (size_t{64} << 20)) << "and given back";
  table_.prepare_matmul(s);
  EXPECT_EQ(calls - before, timed) << "known by now";
  EXPECT_EQ(choices->save(), "");
  use({.choices = std::make_shared<ProductChoices>(directory)});
  table_.prepare_matmul(s);
  EXPECT_EQ(calls - before, timed) << "known from the file";
  MatmulShape biased = s;  // of a bias the library sees the last address that it was told
  biased.bias = true;
  const auto guessed = std::make_shared<ProductChoices>(directory);
  use({.time = false, .choices = guessed});  // the first wants its operands on boundaries
  table_.prepare_matmul(biased);
  use({.choices = guessed});
  table_.prepare_matmul(biased);
  EXPECT_EQ(calls - before, timed) << "known, and good for operands on boundaries";
  use({.tf32 = true, .choices = std::make_shared<ProductChoices>(directory)});
  table_.prepare_matmul(s);
  EXPECT_GT(calls - before, timed) << "other arithmetic, another product";
}

/// The three that only training asks for.
std::vector<MatmulShape> trained_shapes() {
  MatmulShape keeps = shape(DType::bf16, DType::bf16);
  keeps.activation = ActivationKind::gelu_tanh, keeps.keeps_input = true;
  MatmulShape biased = keeps;
  biased.bias = true;
  MatmulShape gradient = shape(DType::bf16, DType::bf16);
  gradient.transpose_b = false, gradient.activation_gradient = ActivationKind::gelu_tanh;
  MatmulShape sums = shape(DType::bf16, DType::f32);
  sums.transpose_a = true, sums.transpose_b = false, sums.bias_gradient = sums.may_accumulate = true;
  return {keeps, biased, gradient, sums};
}

TEST_F(CudaProducts, WhatTrainsIsTheLibrarysEpilogue) {
  uint64_t& trained = emulated_cuda::switches().trained_products;
  for (const MatmulShape& s : trained_shapes())
    for (const bool accumulate : {false, true}) {
      if (accumulate && !s.may_accumulate) continue;
      EXPECT_EQ(table_.fuses(s), !s.keeps_input) << "gelu of what is not rounded yet is no plan's";
      const auto product = table_.prepare_matmul(s);
      const uint64_t before = trained;
      expect_trained(train(*product, s, accumulate), s, accumulate);
      EXPECT_EQ(trained, before + 1);
      expect_trained(train(*product, s, accumulate, 4), s, accumulate);
      EXPECT_EQ(trained, before + 1) << "apart, where the aux matrix lies anywhere";
    }
}

TEST_F(CudaProducts, WhatTheLibraryHasNoEpilogueForRunsApart) {
  uint64_t& trained = emulated_cuda::switches().trained_products;
  const uint64_t before = trained;
  MatmulShape odd = trained_shapes()[1], wide = odd, narrow = trained_shapes()[3], erf = odd;
  odd.n = 41;
  wide.c = DType::f32;
  narrow.c = DType::bf16;
  erf.activation = ActivationKind::gelu;
  for (const MatmulShape& s : {odd, wide, narrow, erf}) {
    EXPECT_FALSE(table_.fuses(s));
    expect_trained(train(*table_.prepare_matmul(s), s, false), s, false);
  }
  emulated_cuda::switches().trains_products = false;  // no algorithm is offered
  for (const MatmulShape& s : trained_shapes()) {
    EXPECT_EQ(table_.fuses(s), !s.keeps_input);
    expect_trained(train(*table_.prepare_matmul(s), s, s.may_accumulate), s, s.may_accumulate);
  }
  emulated_cuda::switches().trains_products = true;
  EXPECT_EQ(trained, before);
}

TEST_F(CudaProducts, EmptySumsOfWhatTrains) {
  for (MatmulShape s : trained_shapes()) {
    if (s.bias) continue;
    s.k = 0;
    expect_trained(train(*table_.prepare_matmul(s), s, false), s, false);
    s.k = 16, s.n = 0;
    expect_trained(train(*table_.prepare_matmul(s), s, s.may_accumulate), s, s.may_accumulate);
  }
}

TEST_F(CudaProducts, WhetherToRunApartIsTimedRememberedAndShared) {
  const support::TemporaryDirectory temporary;
  const std::string directory = temporary.path();
  uint64_t& trained = emulated_cuda::switches().trained_products;
  uint64_t& calls = emulated_cuda::switches().library_calls;
  const MatmulShape s = trained_shapes()[1];
  const auto choices = std::make_shared<ProductChoices>(directory);
  use({.choices = choices});
  MatmulShape alone = s;
  alone.keeps_input = false, alone.activation = ActivationKind::none;
  table_.prepare_matmul(alone);
  uint64_t before = calls;
  const uint64_t before_trained = trained;
  const auto product = table_.prepare_matmul(s);
  EXPECT_GT(trained, before_trained) << "the epilogue was timed";
  EXPECT_GT(calls - before, trained - before_trained) << "and so was to run apart";
  EXPECT_EQ(choices->size(), 2u) << "the product alone is known too";

  std::string key;
  const std::string bytes = choices->to_bytes();
  for (size_t at = bytes.find('\n') + 1; at < bytes.size(); at = bytes.find('\n', at) + 1)
    if (bytes.substr(at, bytes.find('\t', at) - at).find("keeps") != std::string::npos)
      key = bytes.substr(at, bytes.find('\t', at) - at);
  ASSERT_NE(key, "");
  const auto other_rank_takes = [&](const std::array<uint64_t, 8>& theirs) {
    ProductChoices other;
    other.open(choices->hardware());
    other.put(key, theirs, 1.0);
    choices->settle();
    EXPECT_TRUE(choices->take(other.to_bytes()));
  };
  const auto guess = std::make_shared<ProductChoices>();
  use({.time = false, .choices = guess});
  table_.prepare_matmul(s);
  const std::array<uint64_t, 8> fused = guess->find(key)->algorithm;
  EXPECT_FALSE(fused == (std::array<uint64_t, 8>{})) << "untimed, the library's first guess";
  const auto runs_fused = [&](const PreparedMatmul& one) {
    const uint64_t counted = trained;
    expect_trained(train(one, s, false), s, false);
    return trained > counted;
  };
  other_rank_takes({});
  EXPECT_FALSE(runs_fused(*product)) << "it follows to apart";
  other_rank_takes(fused);
  EXPECT_TRUE(runs_fused(*product)) << "and back";
  other_rank_takes({});
  EXPECT_EQ(choices->save(), "");
  use({.choices = std::make_shared<ProductChoices>(directory)});
  before = calls;
  const auto remembered = table_.prepare_matmul(s);
  EXPECT_EQ(calls, before) << "nothing is timed again";
  EXPECT_FALSE(runs_fused(*remembered));
}

/// The emulated library refuses what the real one does.
TEST(EmulatedCublasLt, RefusesAnAuxMatrixWhoseRowsAreNotMultiplesOf8AndReluS) {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t description;
  cublasLtMatmulPreference_t preference;
  cublasLtMatrixLayout_t a, b, d;
  ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
  cublasLtMatrixLayoutCreate(&a, CUDA_R_16BF, 24, 8, 24);
  cublasLtMatrixLayoutCreate(&b, CUDA_R_16BF, 8, 5, 8);
  cublasLtMatrixLayoutCreate(&d, CUDA_R_16BF, 24, 5, 24);
  const auto offered = [&](cublasLtEpilogue_t epilogue, int64_t leading) {
    const uint32_t word = epilogue;
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &word, sizeof word);
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &leading, sizeof leading);
    cublasLtMatmulHeuristicResult_t found[4];
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, d, d, preference, 4, found, &count);
    return status == CUBLAS_STATUS_SUCCESS && count > 0;
  };
  EXPECT_TRUE(offered(CUBLASLT_EPILOGUE_GELU_AUX, 24));
  EXPECT_TRUE(offered(CUBLASLT_EPILOGUE_DGELU, 32));
  EXPECT_FALSE(offered(CUBLASLT_EPILOGUE_GELU_AUX, 28)) << "no multiple of 8";
  EXPECT_FALSE(offered(CUBLASLT_EPILOGUE_GELU_AUX, 16)) << "shorter than the rows";
  EXPECT_FALSE(offered(CUBLASLT_EPILOGUE_GELU_AUX, 0)) << "not set";
  EXPECT_FALSE(offered(CUBLASLT_EPILOGUE_RELU_AUX, 128)) << "bits";
  EXPECT_FALSE(offered(static_cast<cublasLtEpilogue_t>(CUBLASLT_EPILOGUE_BGRADB | CUBLASLT_EPILOGUE_BIAS), 24));
  EXPECT_FALSE(offered(CUBLASLT_EPILOGUE_BGRADB, 24)) << "operands that lie otherwise";
  for (const auto layout : {a, b, d}) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatmulDescDestroy(description);
  cublasLtDestroy(handle);
}

TEST_F(CudaProducts, APreparedProductFollowsTheChoiceOfAnotherRank) {
  factor_ = 1.0f / 3;  // so that the order of a sum shows
  MatmulShape s = shape(DType::f32, DType::f32);
  s.k = 300;
  const auto choices = std::make_shared<ProductChoices>();
  use({.time = false, .choices = choices});
  const auto product = table_.prepare_matmul(s);
  const std::vector<float> ours = run(*product, s, false);
  const std::string bytes = choices->to_bytes();
  const size_t line = bytes.find('\n') + 1;
  const std::string key = bytes.substr(line, bytes.find('\t') - line);
  std::array<uint64_t, 8> algorithm = choices->find(key)->algorithm;
  const auto other_rank_takes = [&](const std::array<uint64_t, 8>& theirs) {
    ProductChoices other;
    other.open(choices->hardware());
    other.put(key, theirs, 1.0);
    choices->settle();
    EXPECT_TRUE(choices->take(other.to_bytes()));
  };
  algorithm[1] ^= 1;  // the emulated library's number of an algorithm
  other_rank_takes(algorithm);
  const std::vector<float> theirs = run(*product, s, false);
  EXPECT_FALSE(theirs == ours) << "the same algorithm still";
  EXPECT_TRUE(run(s, false) == theirs) << "and who prepares it now takes it too";
  algorithm.fill(~0ull);
  other_rank_takes(algorithm);
  EXPECT_TRUE(run(*product, s, false) == theirs) << "an algorithm that the library refuses is left";
}

}  // namespace
}  // namespace capstan::kernels::testing
