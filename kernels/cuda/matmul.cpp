#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cuda/check_cublas.h"
#include "kernels/cuda/matmul_timing.h"

namespace capstan::kernels::cuda {
namespace {

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(ProductChoice::algorithm), "the library's blob changed its size");

constexpr int kCandidates = 16;
constexpr uint32_t kAligned = 16;        // what the fast kernels need
constexpr size_t kWorkspaceAlign = 256;  // what the library asks of its workspace

std::string text_of(const MatmulShape& s) {
  std::string text = "m" + std::to_string(s.m) + " n" + std::to_string(s.n) + " k" + std::to_string(s.k);
  text += s.transpose_a ? " T" : " N";
  text += s.transpose_b ? "T " : "N ";
  text += std::string(name_of(s.a)) + " " + name_of(s.c);
  if (s.bias) text += " bias";
  if (s.activation != ActivationKind::none) text += " act" + std::to_string(static_cast<int>(s.activation));
  return text + (s.may_accumulate ? " accumulate" : "");
}

cudaDataType_t type_of(DType t) { return t == DType::f32 ? CUDA_R_32F : t == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F; }

void check_shape(const MatmulShape& s) {
  const bool known = s.a == DType::f32 || s.a == DType::bf16 || s.a == DType::f16;
  if (!known || s.a != s.b || (s.c != s.a && s.c != DType::f32))
    throw std::invalid_argument(
        std::string("a matrix product on CUDA wants f32, bf16 or f16, with C in the same or in f32; got A ") +
        name_of(s.a) + ", B " + name_of(s.b) + ", C " + name_of(s.c));
  if (s.m < 0 || s.n < 0 || s.k < 0 || (s.k == 0 && s.bias))
    throw std::invalid_argument("a matrix product with an extent that cannot be: " + text_of(s));
  if (s.may_accumulate && (s.bias || s.activation != ActivationKind::none))
    throw std::invalid_argument("a matrix product that accumulates takes no bias and no activation");
}

/// Whether the library's epilogue is the very function: its gelu is the tanh form, of which it does not say how it is
/// rounded, so it serves where C is rounded to 16 bits anyway.
bool in_epilogue(ActivationKind kind, DType c) {
  return kind == ActivationKind::relu || (kind == ActivationKind::gelu_tanh && c != DType::f32);
}

cublasLtEpilogue_t epilogue_of(const MatmulShape& s) {
  const bool fused = in_epilogue(s.activation, s.c);
  if (fused && s.activation == ActivationKind::relu)
    return s.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  if (fused) return s.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  return s.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/// The handle and what all products of a backend share.
struct ProductLibrary {
  cublasLtHandle_t handle = nullptr;
  ProductOptions options;
  DeviceRuntime& device;
  void (*cast)(const CastArgs&);
  void (*fill)(const FillArgs&);
  void (*activation)(const ActivationArgs&);
  void (*copy)(const CopyArgs&);

  ProductLibrary(const Backend& table, DeviceRuntime& runtime, ProductOptions given)
      : options(std::move(given)),
        device(runtime),
        cast(table.cast),
        fill(table.fill),
        activation(table.activation),
        copy(table.copy) {
    check(cublasLtCreate(&handle), "cublasLtCreate");
  }
  ~ProductLibrary() { cublasLtDestroy(handle); }
  ProductLibrary(const ProductLibrary&) = delete;
  ProductLibrary& operator=(const ProductLibrary&) = delete;
};

class Layout {
 public:
  Layout(DType type, int64_t rows, int64_t columns) {  // column major and dense
    check(cublasLtMatrixLayoutCreate(&layout_, type_of(type), static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), rows),
          "cublasLtMatrixLayoutCreate");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class Description {
 public:
  Description(cublasComputeType_t compute) {
    check(cublasLtMatmulDescCreate(&description_, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
  }
  ~Description() { cublasLtMatmulDescDestroy(description_); }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  operator cublasLtMatmulDesc_t() const { return description_; }

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) const {
    check(cublasLtMatmulDescSetAttribute(description_, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }

 private:
  cublasLtMatmulDesc_t description_ = nullptr;
};

class Preference {
 public:
  Preference() { check(cublasLtMatmulPreferenceCreate(&preference_), "cublasLtMatmulPreferenceCreate"); }
  ~Preference() { cublasLtMatmulPreferenceDestroy(preference_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  operator cublasLtMatmulPreference_t() const { return preference_; }

  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) const {
    check(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
};

/// The library is column major: our row-major C[m, n] is its D[n, m] = op(B)' op(A)', so the operands change places
/// and each lies as it is told by its own flag. The bias of our n columns is that of its n rows.
class LtProduct final : public PreparedMatmul {
 public:
  LtProduct(std::shared_ptr<const ProductLibrary> library, const MatmulShape& s)
      : library_(std::move(library)),
        shape_(s),
        name_(text_of(s)),
        description_(s.a == DType::f32 && library_->options.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F),
        left_(s.b, s.transpose_b ? s.k : s.n, s.transpose_b ? s.n : s.k),
        right_(s.a, s.transpose_a ? s.m : s.k, s.transpose_a ? s.k : s.m),
        result_(s.c, s.n, s.m),
        casts_bias_(s.bias && s.c != s.a) {
    description_.set(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    description_.set(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    description_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue_of(s)));
    if (s.bias) description_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(s.c)));
    // Algorithms are offered and checked for a bias as it will lie; the address is not followed.
    if (s.bias)
      description_.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                       reinterpret_cast<const void*>(static_cast<uintptr_t>(kWorkspaceAlign)));
    any_ = candidates(static_cast<uint32_t>(bytes_of(s.a)));
    choose();
  }

  size_t scratch_bytes() const override { return bias_bytes() + workspace_bytes() + kWorkspaceAlign; }

  void run(const MatmulArgs& args, void* scratch) const override {
    const float factor = args.accumulate ? 1.0f : 0.0f;
    char* memory = align(static_cast<char*>(scratch));
    const void* bias = args.bias;
    if (casts_bias_) {
      library_->cast({args.bias, memory, shape_.n, shape_.a, shape_.c, args.stream});
      bias = memory;
    } else if (!is_aligned(bias)) {
      library_->copy({.from = bias,
                      .to = memory,
                      .row_bytes = static_cast<size_t>(shape_.n) * bytes_of(shape_.c),
                      .stream = args.stream});
      bias = memory;
    }
    const bool aligned = is_aligned(args.a) && is_aligned(args.b) && is_aligned(args.c);
    if (!aligned && any_.empty())
      throw std::runtime_error(
          "product " + name_ +
          ": an operand does not lie on a 16-byte boundary, and cuBLASLt has no algorithm for that");
    check(enqueue(args, bias, factor, aligned ? chosen() : any_.front(), memory + bias_bytes()), name_);
    if (shape_.activation == ActivationKind::none || in_epilogue(shape_.activation, shape_.c)) return;
    ActivationArgs activation;
    activation.kind = shape_.activation;
    activation.x = activation.y = args.c;
    activation.count = shape_.m * shape_.n;
    activation.dtype = shape_.c;
    activation.stream = args.stream;
    library_->activation(activation);
  }

 private:
  static bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kAligned == 0; }
  static char* align(char* p) {
    return p + (kWorkspaceAlign - reinterpret_cast<uintptr_t>(p) % kWorkspaceAlign) % kWorkspaceAlign;
  }
  size_t workspace_bytes() const { return library_->options.workspace_bytes; }
  /// The library takes a bias in the type of C only: one of another is cast into the scratch first. No preference tells
  /// it how a bias lies, and its kernels load 16 bytes at once: one that lies elsewhere is copied there.
  size_t bias_bytes() const {
    if (!shape_.bias) return 0;
    return (static_cast<size_t>(shape_.n) * bytes_of(shape_.c) + kWorkspaceAlign - 1) / kWorkspaceAlign *
           kWorkspaceAlign;
  }

  static void check(cublasStatus_t status, const std::string& what) {
    if (status != CUBLAS_STATUS_SUCCESS) cuda::check(status, ("cublasLtMatmul, product " + what).c_str());
  }

  cublasStatus_t enqueue(const MatmulArgs& args, const void* bias, float factor, const cublasLtMatmulAlgo_t& algorithm,
                         void* workspace) const {
    const float one = 1.0f;
    if (shape_.bias) description_.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    return cublasLtMatmul(library_->handle, description_, &one, args.b, left_, args.a, right_, &factor, args.c, result_,
                          args.c, result_, &algorithm, workspace, workspace_bytes(),
                          static_cast<cudaStream_t>(args.stream));
  }

  /// In the library's order, best guess first. Partial sums of a split k are kept in f32.
  std::vector<cublasLtMatmulAlgo_t> candidates(uint32_t alignment) const {
    const Preference preference;
    preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes()));
    preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                   static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES})
      preference.set(operand, alignment);
    const uint32_t of_result = std::max(alignment, static_cast<uint32_t>(bytes_of(shape_.c)));
    for (const auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      preference.set(operand, of_result);
    std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        library_->handle, description_, left_, right_, result_, result_, preference, kCandidates, found.data(), &count);
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, name_);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < count; ++i)
      if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
        algorithms.push_back(found[static_cast<size_t>(i)].algo);
    return algorithms;
  }

  bool can_run(const cublasLtMatmulAlgo_t& algorithm) const {
    cublasLtMatmulHeuristicResult_t result = {};
    return cublasLtMatmulAlgoCheck(library_->handle, description_, left_, right_, result_, result_, &algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= workspace_bytes();
  }

  static cublasLtMatmulAlgo_t algorithm_of(const ProductChoice& choice) {
    cublasLtMatmulAlgo_t algorithm;
    std::memcpy(&algorithm, choice.algorithm.data(), sizeof algorithm);
    return algorithm;
  }

  /// What is known of this product, or what timing tells.
  void choose() {
    ProductChoices* choices = library_->options.choices.get();
    const std::string key = name_ + (library_->options.tf32 && shape_.a == DType::f32 ? " tf32" : "") + " in " +
                            std::to_string(workspace_bytes());
    if (choices != nullptr) choice_ = choices->find(key);
    if (choice_ != nullptr && can_run(algorithm_of(*choice_))) return adopt();
    const std::vector<cublasLtMatmulAlgo_t> all = candidates(kAligned);
    if (all.empty())
      throw std::runtime_error("cuBLASLt has no algorithm for product " + name_ + " within " +
                               std::to_string(workspace_bytes()) +
                               " bytes of workspace; allow more, or take extents that are multiples of 8");
    const ProductTiming best = library_->options.time && all.size() > 1 ? time(all) : ProductTiming{};
    if (choices == nullptr) {
      aligned_ = all[best.index];
      return;
    }
    std::array<uint64_t, 8> words;
    std::memcpy(words.data(), &all[best.index], sizeof words);
    choice_ = choices->put(key, words, best.seconds);
    adopt();
  }

  ProductTiming time(const std::vector<cublasLtMatmulAlgo_t>& all) const {
    const ProductMemory memory = product_memory(shape_, scratch_bytes());
    return time_products(library_->device, memory, all.size(), [&](size_t i, const MatmulArgs& args, void* scratch) {
      char* workspace = align(static_cast<char*>(scratch)) + bias_bytes();
      const void* bias = casts_bias_ ? align(static_cast<char*>(scratch)) : args.bias;
      return enqueue(args, bias, shape_.may_accumulate ? 1.0f : 0.0f, all[i], workspace) == CUBLAS_STATUS_SUCCESS;
    });
  }

  void adopt() const {
    aligned_ = algorithm_of(*choice_);
    adopted_ = choice_->number;
  }

  /// Another rank's choice may have taken the place of ours since; one that this device cannot run is left.
  const cublasLtMatmulAlgo_t& chosen() const {
    if (choice_ == nullptr || choice_->number == adopted_) return aligned_;
    if (can_run(algorithm_of(*choice_))) aligned_ = algorithm_of(*choice_);
    adopted_ = choice_->number;
    return aligned_;
  }

  std::shared_ptr<const ProductLibrary> library_;
  MatmulShape shape_;
  std::string name_;
  Description description_;
  Layout left_, right_, result_;
  bool casts_bias_;
  std::shared_ptr<const ProductChoice> choice_;
  std::vector<cublasLtMatmulAlgo_t> any_;      // for operands at any address, best first
  mutable cublasLtMatmulAlgo_t aligned_ = {};  // for operands on 16-byte boundaries, as choice_ had it at adopted_
  mutable int adopted_ = 0;
};

/// A product without elements, or whose elements are empty sums.
class EmptyProduct final : public PreparedMatmul {
 public:
  EmptyProduct(std::shared_ptr<const ProductLibrary> library, const MatmulShape& s)
      : library_(std::move(library)), count_(s.m * s.n), dtype_(s.c) {}
  size_t scratch_bytes() const override { return 0; }
  void run(const MatmulArgs& args, void*) const override {
    if (count_ > 0 && !args.accumulate) library_->fill({args.c, count_, 0.0, dtype_, args.stream});
  }

 private:
  std::shared_ptr<const ProductLibrary> library_;
  int64_t count_;
  DType dtype_;
};

}  // namespace

std::string product_hardware(const DeviceFacts& facts) {
  return facts.name + " " + std::to_string(facts.major) + "." + std::to_string(facts.minor) + " " +
         std::to_string(facts.multiprocessors) + " cublasLt " + std::to_string(cublasLtGetVersion());
}

void add_products(Backend& table, DeviceRuntime& device, const ProductOptions& options) {
  const DeviceFacts facts = device.facts();
  const auto library = std::make_shared<ProductLibrary>(table, device, options);
  if (library->options.workspace_bytes == 0)
    library->options.workspace_bytes = size_t{facts.major >= 9 ? 32u : 16u} << 20;
  if (options.choices) options.choices->open(product_hardware(facts));
  table.prepare_matmul = [library](const MatmulShape& shape) -> std::unique_ptr<PreparedMatmul> {
    check_shape(shape);
    if (shape.m == 0 || shape.n == 0 || shape.k == 0) return std::make_unique<EmptyProduct>(library, shape);
    return std::make_unique<LtProduct>(library, shape);
  };
}

}  // namespace capstan::kernels::cuda
