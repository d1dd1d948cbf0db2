#include "kernels/cpu/matmul.h"

#include <omp.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/cpu/cpu_backend.h"

namespace capstan::kernels {
namespace {

class OwnMatmul final : public PreparedMatmul {
 public:
  OwnMatmul(const MatmulShape& shape, InstructionSet set)
      : shape_(shape), kernels_(vector_kernels_of(set)->gemm), threads_(omp_get_max_threads()) {}
  size_t scratch_bytes() const override { return kernels_.scratch_bytes(shape_, threads_); }
  void run(const MatmulArgs& args, void* scratch) const override { kernels_.run(shape_, args, threads_, scratch); }

 private:
  MatmulShape shape_;
  GemmKernels kernels_;
  int threads_;
};

/// The activation in a second pass over C, by the backend's own kernel: fused or not, the same bits.
class ActivatedMatmul final : public PreparedMatmul {
 public:
  ActivatedMatmul(std::unique_ptr<PreparedMatmul> product, const MatmulShape& shape, InstructionSet set)
      : product_(std::move(product)),
        activation_(cpu_backend(name_of(set)).activation),
        kind_(shape.activation),
        count_(shape.m * shape.n),
        dtype_(shape.c) {}
  size_t scratch_bytes() const override { return product_->scratch_bytes(); }
  void run(const MatmulArgs& args, void* scratch) const override {
    product_->run(args, scratch);
    ActivationArgs activation;
    activation.kind = kind_;
    activation.x = activation.y = args.c;
    activation.count = count_;
    activation.dtype = dtype_;
    activation_(activation);
  }

 private:
  std::unique_ptr<PreparedMatmul> product_;
  void (*activation_)(const ActivationArgs&);
  ActivationKind kind_;
  int64_t count_;
  DType dtype_;
};

void check(const MatmulShape& s) {
  const bool floats = s.a == DType::f32 && s.c == DType::f32;
  const bool halves = s.a == DType::bf16 && (s.c == DType::bf16 || s.c == DType::f32);
  if (s.a != s.b || !(floats || halves))
    throw std::invalid_argument(
        std::string("a matrix product on the cpu wants f32, or bf16 with C in bf16 or f32; got A ") + name_of(s.a) +
        ", B " + name_of(s.b) + ", C " + name_of(s.c));
  if (s.m < 0 || s.n < 0 || s.k < 0) throw std::invalid_argument("a matrix product with a negative extent");
  if (const char* mistake = epilogue_mistake(s)) throw std::invalid_argument(mistake);
  if (s.trains()) throw std::invalid_argument("a matrix product on the cpu has no epilogue for training");
}

std::unique_ptr<PreparedMatmul> prepare_product(const MatmulShape& s, InstructionSet set) {
  const bool few_rows = s.m <= kFewRows && s.transpose_b && !s.transpose_a;
  const bool library = s.a == DType::f32 ? set >= InstructionSet::avx512 : set == InstructionSet::avx512_bf16;
  if (library && !few_rows && s.m > 0 && s.n > 0 && s.k > 0)
    if (auto product = prepare_library_matmul(s)) return product;
  return std::make_unique<OwnMatmul>(s, set);
}

template <InstructionSet Set>
std::unique_ptr<PreparedMatmul> prepare(const MatmulShape& shape) {
  check(shape);
  auto product = prepare_product(shape, Set);
  if (shape.activation == ActivationKind::none) return product;
  return std::make_unique<ActivatedMatmul>(std::move(product), shape, Set);
}

}  // namespace

bool cpu_fuses(const MatmulShape&) { return false; }

PrepareMatmul cpu_matmul_for(InstructionSet set) {
  constexpr PrepareMatmul table[] = {prepare<InstructionSet::sse4>, prepare<InstructionSet::avx2>,
                                     prepare<InstructionSet::avx512>, prepare<InstructionSet::avx512_bf16>};
  return table[static_cast<int>(set)];
}

}  // namespace capstan::kernels
