#pragma once
// What cuBLASLt wants described, each made and destroyed with its C++ object.

#include <cublasLt.h>

#include "kernels/cuda/check_cublas.h"
#include "kernels/types.h"

namespace capstan::kernels::cuda {

inline cudaDataType_t type_of(DType t) {
  return t == DType::f32 ? CUDA_R_32F : t == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

class LtLayout {
 public:
  LtLayout(DType type, int64_t rows, int64_t columns) {  // column major and dense
    check(cublasLtMatrixLayoutCreate(&layout_, type_of(type), static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), rows),
          "cublasLtMatrixLayoutCreate");
  }
  ~LtLayout() { cublasLtMatrixLayoutDestroy(layout_); }
  LtLayout(const LtLayout&) = delete;
  LtLayout& operator=(const LtLayout&) = delete;
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class LtDescription {
 public:
  LtDescription(cublasComputeType_t compute) {
    check(cublasLtMatmulDescCreate(&description_, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
  }
  ~LtDescription() { cublasLtMatmulDescDestroy(description_); }
  LtDescription(const LtDescription&) = delete;
  LtDescription& operator=(const LtDescription&) = delete;
  operator cublasLtMatmulDesc_t() const { return description_; }

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) const {
    check(cublasLtMatmulDescSetAttribute(description_, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }

 private:
  cublasLtMatmulDesc_t description_ = nullptr;
};

class LtPreference {
 public:
  LtPreference() { check(cublasLtMatmulPreferenceCreate(&preference_), "cublasLtMatmulPreferenceCreate"); }
  ~LtPreference() { cublasLtMatmulPreferenceDestroy(preference_); }
  LtPreference(const LtPreference&) = delete;
  LtPreference& operator=(const LtPreference&) = delete;
  operator cublasLtMatmulPreference_t() const { return preference_; }

  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) const {
    check(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
};

}  // namespace capstan::kernels::cuda
