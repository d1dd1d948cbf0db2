#include "kernels/cuda/product_epilogue.h"

#include <stdexcept>

namespace capstan::kernels::cuda {

std::string name_of_product(const MatmulShape& s) {
  std::string text = "m" + std::to_string(s.m) + " n" + std::to_string(s.n) + " k" + std::to_string(s.k);
  text += s.transpose_a ? " T" : " N";
  text += s.transpose_b ? "T " : "N ";
  text += std::string(name_of(s.a)) + " " + name_of(s.c);
  if (s.bias) text += " bias";
  if (s.activation != ActivationKind::none) text += " act" + std::to_string(static_cast<int>(s.activation));
  if (s.keeps_input) text += " keeps";
  if (s.activation_gradient != ActivationKind::none)
    text += " gradient" + std::to_string(static_cast<int>(s.activation_gradient));
  if (s.bias_gradient) text += " sums";
  return text + (s.may_accumulate ? " accumulate" : "");
}

void check_product(const MatmulShape& s) {
  const bool known = s.a == DType::f32 || s.a == DType::bf16 || s.a == DType::f16;
  if (!known || s.a != s.b || (s.c != s.a && s.c != DType::f32))
    throw std::invalid_argument(
        std::string("a matrix product on CUDA wants f32, bf16 or f16, with C in the same or in f32; got A ") +
        name_of(s.a) + ", B " + name_of(s.b) + ", C " + name_of(s.c));
  if (s.m < 0 || s.n < 0 || s.k < 0 || (s.k == 0 && s.bias))
    throw std::invalid_argument("a matrix product with an extent that cannot be: " + name_of_product(s));
  if (const char* mistake = epilogue_mistake(s)) throw std::invalid_argument(mistake);
}

bool in_epilogue(ActivationKind kind, DType c) {
  return kind == ActivationKind::relu || (kind == ActivationKind::gelu_tanh && c != DType::f32);
}

MatmulShape without_training(MatmulShape s) {
  if (s.keeps_input) s.activation = ActivationKind::none;
  s.keeps_input = s.bias_gradient = false;
  s.activation_gradient = ActivationKind::none;
  return s;
}

bool has_training_epilogue(const MatmulShape& s) {
  const bool aux = s.c != DType::f32 && s.n % 8 == 0;
  return (aux && s.keeps_input && s.activation == ActivationKind::gelu_tanh) ||
         (aux && s.activation_gradient == ActivationKind::gelu_tanh) || (s.bias_gradient && s.c == DType::f32);
}

cublasLtEpilogue_t epilogue_of(const MatmulShape& s) {
  if (s.keeps_input) return s.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  if (s.activation_gradient != ActivationKind::none) return CUBLASLT_EPILOGUE_DGELU;
  if (s.bias_gradient) return CUBLASLT_EPILOGUE_BGRADB;  // our A is the library's B
  const bool fused = in_epilogue(s.activation, s.c);
  if (fused && s.activation == ActivationKind::relu)
    return s.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  if (fused) return s.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  return s.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

}  // namespace capstan::kernels::cuda
