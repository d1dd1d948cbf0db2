#include "kernels/cuda/matmul.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cuda/lt_objects.h"
#include "kernels/cuda/matmul_timing.h"
#include "kernels/cuda/product_epilogue.h"

namespace capstan::kernels::cuda {
namespace {

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(ProductChoice::algorithm), "the library's blob changed its size");

constexpr int kCandidates = 16;
constexpr uint32_t kAligned = 16;        // what the fast kernels need
constexpr size_t kWorkspaceAlign = 256;  // what the library asks of its workspace

/// The handle and what all products of a backend share.
struct ProductLibrary {
  cublasLtHandle_t handle = nullptr;
  ProductOptions options;
  DeviceRuntime& device;
  void (*cast)(const CastArgs&);
  void (*fill)(const FillArgs&);
  void (*add)(const AddArgs&);
  void (*activation)(const ActivationArgs&);
  void (*activation_backward)(const ActivationBackwardArgs&);
  size_t (*bias_gradient_scratch)(int64_t rows, int64_t n);
  void (*bias_gradient)(const BiasGradientArgs&);
  void (*copy)(const CopyArgs&);

  ProductLibrary(const Backend& table, DeviceRuntime& runtime, ProductOptions given)
      : options(std::move(given)),
        device(runtime),
        cast(table.cast),
        fill(table.fill),
        add(table.add),
        activation(table.activation),
        activation_backward(table.activation_backward),
        bias_gradient_scratch(table.bias_gradient_scratch),
        bias_gradient(table.bias_gradient),
        copy(table.copy) {
    check(cublasLtCreate(&handle), "cublasLtCreate");
  }
  ~ProductLibrary() { cublasLtDestroy(handle); }
  ProductLibrary(const ProductLibrary&) = delete;
  ProductLibrary& operator=(const ProductLibrary&) = delete;
};

/// The sums of a gradient of a bias by our own kernel.
BiasGradientArgs sums_of(const MatmulShape& s, const MatmulArgs& args, void* scratch) {
  return {args.a, args.bias_gradient, s.k, s.m, s.a, args.accumulate, scratch, args.stream};
}

/// The library is column major: our row-major C[m, n] is its D[n, m] = op(B)' op(A)', so the operands change places
/// and each lies as it is told by its own flag. The bias of our n columns is that of its n rows.
/// What trains can also run apart: the product alone, with an algorithm of its own, and our own kernel.
class LtProduct final : public PreparedMatmul {
 public:
  LtProduct(std::shared_ptr<const ProductLibrary> library, const MatmulShape& s)
      : library_(std::move(library)),
        shape_(s),
        name_(name_of_product(s)),
        description_(s.a == DType::f32 && library_->options.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F),
        left_(s.b, s.transpose_b ? s.k : s.n, s.transpose_b ? s.n : s.k),
        right_(s.a, s.transpose_a ? s.m : s.k, s.transpose_a ? s.k : s.m),
        result_(s.c, s.n, s.m),
        casts_bias_(s.bias && s.c != s.a) {
    if (s.trains()) apart_ = std::make_unique<LtProduct>(library_, without_training(s));
    if (s.trains() && !has_training_epilogue(s)) return;
    description_.set(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    description_.set(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    description_.set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue_of(s)));
    if (s.bias || s.bias_gradient)
      description_.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(s.c)));
    if (has_aux()) description_.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.n);
    // Algorithms are offered and checked for a row and an aux matrix as they will lie; the addresses are not followed.
    point_at(reinterpret_cast<const void*>(static_cast<uintptr_t>(kWorkspaceAlign)),
             reinterpret_cast<const void*>(static_cast<uintptr_t>(kAligned)));
    if (apart_ == nullptr) any_ = candidates(static_cast<uint32_t>(bytes_of(s.a)));
    choose();
  }

  size_t scratch_bytes() const override {
    const size_t fused = front_bytes() + workspace_bytes() + kWorkspaceAlign;
    if (apart_ == nullptr) return fused;
    const size_t sums = shape_.bias_gradient ? library_->bias_gradient_scratch(shape_.k, shape_.m) : 0;
    return std::max({fused, apart_->scratch_bytes(), sums});
  }

  void run(const MatmulArgs& args, void* scratch) const override {
    char* memory = align(static_cast<char*>(scratch));
    const void* bias = args.bias;
    const bool aligned = is_aligned(args.a) && is_aligned(args.b) && is_aligned(args.c) && is_aligned(args.aux) &&
                         is_aligned(args.bias_gradient);
    follow_choice();
    if (apart_ != nullptr && (goes_apart_ || !aligned)) return run_apart(args, scratch);
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
    if (!aligned && any_.empty())
      throw std::runtime_error(
          "product " + name_ +
          ": an operand does not lie on a 16-byte boundary, and cuBLASLt has no algorithm for that");
    check(run_fused(args, bias, aligned ? aligned_ : any_.front(), memory), name_);
    if (apart_ != nullptr || shape_.activation == ActivationKind::none || in_epilogue(shape_.activation, shape_.c))
      return;
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
  bool has_aux() const { return shape_.keeps_input || shape_.activation_gradient != ActivationKind::none; }
  /// In front of the workspace lies a row. The library takes a bias in the type of C only: one of another is cast there
  /// first. No preference tells it how a bias lies, and its kernels load 16 bytes at once: one that lies elsewhere is
  /// copied there. And it cannot add to a gradient of a bias: the sums go there, and are added after.
  size_t front_bytes() const {
    const int64_t row = shape_.bias ? shape_.n : shape_.bias_gradient ? shape_.m : 0;
    return (static_cast<size_t>(row) * bytes_of(shape_.c) + kWorkspaceAlign - 1) / kWorkspaceAlign * kWorkspaceAlign;
  }

  static void check(cublasStatus_t status, const std::string& what) {
    if (status != CUBLAS_STATUS_SUCCESS) cuda::check(status, ("cublasLtMatmul, product " + what).c_str());
  }

  /// memory: the row in front and the workspace.
  cublasStatus_t run_fused(const MatmulArgs& args, const void* bias, const cublasLtMatmulAlgo_t& algorithm,
                           char* memory) const {
    const bool adds_sums = shape_.bias_gradient && args.accumulate;
    const void* row = adds_sums ? memory : shape_.bias_gradient ? args.bias_gradient : bias;
    const cublasStatus_t status = enqueue(args, row, algorithm, memory + front_bytes());
    if (status == CUBLAS_STATUS_SUCCESS && adds_sums)
      library_->add({args.bias_gradient, memory, args.bias_gradient, shape_.m, shape_.c, 1, args.stream});
    return status;
  }

  /// The product and our own kernel.
  void run_apart(const MatmulArgs& args, void* scratch) const {
    MatmulArgs product = args;
    if (shape_.keeps_input) product.c = args.aux;
    product.aux = product.bias_gradient = nullptr;
    apart_->run(product, scratch);
    const int64_t count = shape_.m * shape_.n;
    if (shape_.keeps_input)
      library_->activation({shape_.activation, args.aux, nullptr, args.c, count, shape_.c, args.stream});
    else if (shape_.bias_gradient)
      library_->bias_gradient(sums_of(shape_, args, scratch));
    else
      library_->activation_backward(
          {shape_.activation_gradient, args.aux, nullptr, args.c, args.c, nullptr, count, shape_.c, args.stream});
  }

  void point_at(const void* row, const void* aux) const {
    if (shape_.bias || shape_.bias_gradient) description_.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, row);
    if (has_aux()) description_.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux);
  }

  cublasStatus_t enqueue(const MatmulArgs& args, const void* row, const cublasLtMatmulAlgo_t& algorithm,
                         void* workspace) const {
    const float one = 1.0f, factor = args.accumulate ? 1.0f : 0.0f;
    point_at(row, args.aux);
    return cublasLtMatmul(library_->handle, description_, &one, args.b, left_, args.a, right_, &factor, args.c, result_,
                          args.c, result_, &algorithm, workspace, workspace_bytes(),
                          static_cast<cudaStream_t>(args.stream));
  }

  /// In the library's order, best guess first. Partial sums of a split k are kept in f32.
  std::vector<cublasLtMatmulAlgo_t> candidates(uint32_t alignment) const {
    const LtPreference preference;
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
    // How the library refuses an epilogue of training is its affair: the product runs apart then.
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED && apart_ == nullptr)
      check(status, name_);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < count; ++i)
      if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
        algorithms.push_back(found[static_cast<size_t>(i)].algo);
    return algorithms;
  }

  /// What is remembered of a product that is no faster fused: words that are no algorithm.
  static bool is_apart(const ProductChoice& choice) { return choice.algorithm == std::array<uint64_t, 8>{}; }

  bool can_take(const ProductChoice& choice) const {
    return is_apart(choice) ? apart_ != nullptr : can_run(algorithm_of(choice));
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
    if (choice_ != nullptr && can_take(*choice_)) return adopt();
    const std::vector<cublasLtMatmulAlgo_t> all = candidates(kAligned);
    const size_t ways = all.size() + (apart_ != nullptr ? 1 : 0);
    if (ways == 0)
      throw std::runtime_error("cuBLASLt has no algorithm for product " + name_ + " within " +
                               std::to_string(workspace_bytes()) +
                               " bytes of workspace; allow more, or take extents that are multiples of 8");
    const ProductTiming best = library_->options.time && ways > 1 ? time(all, ways) : ProductTiming{};
    goes_apart_ = best.index == all.size();
    if (!goes_apart_) aligned_ = all[best.index];
    if (choices == nullptr) return;
    std::array<uint64_t, 8> words{};
    if (!goes_apart_) std::memcpy(words.data(), &aligned_, sizeof words);
    choice_ = choices->put(key, words, best.seconds);
    adopt();
  }

  /// The last of the ways of what trains is apart.
  ProductTiming time(const std::vector<cublasLtMatmulAlgo_t>& all, size_t ways) const {
    const ProductMemory memory = product_memory(shape_, scratch_bytes());
    return time_products(library_->device, memory, ways, [&](size_t i, MatmulArgs args, void* scratch) {
      args.accumulate = shape_.may_accumulate;
      if (i == all.size()) return run_apart(args, scratch), true;
      char* row = align(static_cast<char*>(scratch));
      return run_fused(args, casts_bias_ ? row : args.bias, all[i], row) == CUBLAS_STATUS_SUCCESS;
    });
  }

  void adopt() const {
    goes_apart_ = is_apart(*choice_);
    if (!goes_apart_) aligned_ = algorithm_of(*choice_);
    adopted_ = choice_->number;
  }

  /// Another rank's choice may have taken the place of ours since; one that this device cannot run is left.
  void follow_choice() const {
    if (choice_ == nullptr || choice_->number == adopted_) return;
    if (can_take(*choice_)) return adopt();
    adopted_ = choice_->number;
  }

  std::shared_ptr<const ProductLibrary> library_;
  MatmulShape shape_;
  std::string name_;
  LtDescription description_;
  LtLayout left_, right_, result_;
  bool casts_bias_;
  std::unique_ptr<LtProduct> apart_;  // of what trains
  std::shared_ptr<const ProductChoice> choice_;
  std::vector<cublasLtMatmulAlgo_t> any_;      // for operands at any address, best first
  mutable cublasLtMatmulAlgo_t aligned_ = {};  // for operands on 16-byte boundaries, as choice_ had it at adopted_
  mutable bool goes_apart_ = true;             // instead, where there is apart_
  mutable int adopted_ = 0;
};

/// A product without elements, or whose elements are empty sums.
class EmptyProduct final : public PreparedMatmul {
 public:
  EmptyProduct(std::shared_ptr<const ProductLibrary> library, const MatmulShape& s)
      : library_(std::move(library)), shape_(s) {}
  size_t scratch_bytes() const override { return sums() ? library_->bias_gradient_scratch(shape_.k, shape_.m) : 0; }
  void run(const MatmulArgs& args, void* scratch) const override {
    if (sums()) library_->bias_gradient(sums_of(shape_, args, scratch));
    if (args.accumulate) return;
    zero(args.c, shape_.m * shape_.n, shape_.c, args.stream);  // every activation of 0 is 0
    if (shape_.keeps_input) zero(args.aux, shape_.m * shape_.n, shape_.c, args.stream);
    if (shape_.bias_gradient && !sums()) zero(args.bias_gradient, shape_.m, DType::f32, args.stream);
  }

 private:
  bool sums() const { return shape_.bias_gradient && shape_.k > 0 && shape_.m > 0; }
  void zero(void* to, int64_t count, DType t, Stream stream) const {
    if (count > 0) library_->fill({to, count, 0.0, t, stream});
  }

  std::shared_ptr<const ProductLibrary> library_;
  MatmulShape shape_;
};

}  // namespace

bool fuses(const MatmulShape& s) { return has_training_epilogue(s) && !s.keeps_input; }

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
  table.fuses = fuses;
  table.prepare_matmul = [library](const MatmulShape& shape) -> std::unique_ptr<PreparedMatmul> {
    check_product(shape);
    if (shape.m == 0 || shape.n == 0 || shape.k == 0) return std::make_unique<EmptyProduct>(library, shape);
    return std::make_unique<LtProduct>(library, shape);
  };
}

}  // namespace capstan::kernels::cuda
