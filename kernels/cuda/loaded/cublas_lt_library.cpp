// What is called of libcublasLt, passed on to the library once it is loaded (kernels/cuda/cuda_library.h).

#include <cublasLt.h>

#include "kernels/cuda/cuda_library.h"

namespace capstan::kernels::cuda {
namespace {

#define CAPSTAN_TEXT_OF(number) #number
#define CAPSTAN_TEXT(number) CAPSTAN_TEXT_OF(number)

const CudaLibrary& cublas_lt() {
  static const CudaLibrary library("libcublasLt.so." CAPSTAN_TEXT(CUBLAS_VER_MAJOR));
  return library;
}

}  // namespace
}  // namespace capstan::kernels::cuda

using capstan::kernels::cuda::cublas_lt;

CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * handle), (handle))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), (handle))
CAPSTAN_LOADED(cublas_lt, size_t, cublasLtGetVersion, (), ())
CAPSTAN_LOADED(cublas_lt, const char*, cublasLtGetStatusName, (cublasStatus_t status), (status))
CAPSTAN_LOADED(cublas_lt, const char*, cublasLtGetStatusString, (cublasStatus_t status), (status))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatrixLayoutCreate,
               (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading),
               (layout, type, rows, columns, leading))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulDescCreate,
               (cublasLtMatmulDesc_t * description, cublasComputeType_t compute, cudaDataType_t scale),
               (description, compute, scale))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t description), (description))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulDescSetAttribute,
               (cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const void* value,
                size_t bytes),
               (description, attribute, value, bytes))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference),
               (preference))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference),
               (preference))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,
               (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                const void* value, size_t bytes),
               (preference, attribute, value, bytes))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[],
                int* found),
               (handle, description, a, b, c, d, preference, wanted, results, found))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoCheck,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result),
               (handle, description, a, b, c, d, algorithm, result))
CAPSTAN_LOADED(cublas_lt, cublasStatus_t, cublasLtMatmul,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t bytes, cudaStream_t stream),
               (handle, description, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm,
                workspace, bytes, stream))
