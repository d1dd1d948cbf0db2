// Products by loops, as cuBLASLt would give them (cublasLt.h).

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cublasLt.h"
#include "emulated_cuda.h"

namespace emulated_cuda {

struct LtHandle {};
struct LtLayout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t leading;
};
struct LtMatmul {
  cublasComputeType_t compute;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  // that of D
  const void* aux = nullptr;
  int64_t aux_leading = 0;
};
struct LtPreference {
  uint64_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace {

/// How an algorithm sums: k in `parts` runs that are added up in the workspace; operands on boundaries of `alignment`.
struct Algorithm {
  uint64_t parts, alignment;
};
constexpr Algorithm kAlgorithms[] = {{2, 16}, {1, 16}, {3, 16}, {1, 1}};
constexpr uint64_t kMark = 0x6361707374616e31ull;

size_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

float load(const void* from, size_t i, cudaDataType_t type) {
  if (type == CUDA_R_32F) return static_cast<const float*>(from)[i];
  if (type == CUDA_R_16F) return static_cast<const __half*>(from)[i];
  return static_cast<const __nv_bfloat16*>(from)[i];
}
void store(void* to, size_t i, cudaDataType_t type, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(to)[i] = value;
  } else if (type == CUDA_R_16F) {
    static_cast<__half*>(to)[i] = __half(value);
  } else {
    static_cast<__nv_bfloat16*>(to)[i] = __nv_bfloat16(value);
  }
}

bool known(cudaDataType_t type) { return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF; }

bool has_aux(uint32_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_DGELU;
}
bool sums_right(uint32_t epilogue) { return epilogue == CUBLASLT_EPILOGUE_BGRADB; }
bool trains(uint32_t epilogue) { return has_aux(epilogue) || sums_right(epilogue); }
bool uses_bias(uint32_t epilogue) { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 || sums_right(epilogue); }
bool here(uint32_t epilogue) {
  constexpr uint32_t plain[] = {CUBLASLT_EPILOGUE_DEFAULT,   CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_BIAS,
                                CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS};
  return trains(epilogue) || std::find(std::begin(plain), std::end(plain), epilogue) != std::end(plain);
}

struct Problem {
  size_t m, n, k;
  LtMatmul d;
  LtLayout a, b, c, out;
};

cublasStatus_t pose(Problem& p, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out) {
  if (!d || !a || !b || !c || !out) return CUBLAS_STATUS_INVALID_VALUE;
  const bool ta = d->transpose_a != CUBLAS_OP_N, tb = d->transpose_b != CUBLAS_OP_N;
  p = {ta ? a->columns : a->rows, tb ? b->rows : b->columns, ta ? a->rows : a->columns, *d, *a, *b, *c, *out};
  const size_t inner = tb ? b->columns : b->rows;
  if (inner != p.k || out->rows != p.m || out->columns != p.n || c->rows != p.m || c->columns != p.n) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  for (const LtLayout* l : {a, b, c, out}) {
    if (l->leading < static_cast<int64_t>(l->rows) || l->rows == 0 || l->columns == 0) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  const bool types = known(a->type) && a->type == b->type && c->type == out->type && known(out->type) &&
                     (out->type == a->type || out->type == CUDA_R_32F);
  const bool tf32 = d->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (!types || (tf32 && a->type != CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (!here(d->epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (uses_bias(d->epilogue) && d->bias_type >= 0 && d->bias_type != static_cast<int32_t>(out->type))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (has_aux(d->epilogue) && (d->aux_leading % 8 != 0 || d->aux_leading < static_cast<int64_t>(p.m)))
    return CUBLAS_STATUS_INVALID_VALUE;
  // Sums over k are here for operands that lie as those of weight gradients do.
  if (sums_right(d->epilogue) && (ta || !tb)) return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

size_t workspace_of(const Problem& p, const Algorithm& algorithm) {
  return algorithm.parts == 1 ? 0 : algorithm.parts * p.m * p.n * sizeof(float);
}

/// TF32 has ten bits of mantissa.
float cut(float v, bool tf32) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (tf32) bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&v, &bits, 4);
  return v;
}

/// op(X) as floats, `rows` by `columns`, row-major.
std::vector<float> unpacked(const void* from, const LtLayout& l, bool transposed, bool tf32) {
  std::vector<float> all(l.rows * l.columns);
  for (size_t column = 0; column < l.columns; ++column) {
    for (size_t row = 0; row < l.rows; ++row) {
      const float v = cut(load(from, row + column * static_cast<size_t>(l.leading), l.type), tf32);
      all[transposed ? column * l.rows + row : row * l.columns + column] = v;
    }
  }
  return all;
}

/// sums[m, n] of the terms [first, last) of k.
void multiply(const Problem& p, const std::vector<float>& a, const std::vector<float>& b, size_t first, size_t last,
              float* sums) {
  std::fill(sums, sums + p.m * p.n, 0.0f);
  for (size_t i = 0; i < p.m; ++i) {
    for (size_t k = first; k < last; ++k) {
      const float x = a[i * p.k + k];
      const float* row = &b[k * p.n];
      for (size_t j = 0; j < p.n; ++j) sums[i * p.n + j] += x * row[j];
    }
  }
}

float act(float v, uint32_t epilogue) {
  if (epilogue & CUBLASLT_EPILOGUE_RELU) return v > 0 || v != v ? v : 0.0f;
  if (epilogue & CUBLASLT_EPILOGUE_GELU) {
    return 0.5f * v * (1.0f + std::tanh(0.7978845608f * (v + 0.044715f * v * v * v)));
  }
  return v;
}

float gelu_slope(float x) {
  const float t = std::tanh(0.7978845608f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3 * 0.044715f * x * x);
}

/// What of the epilogue reaches D; writes the aux matrix where it is an output.
float finish(const Problem& p, size_t i, size_t j, float v) {
  if (!has_aux(p.d.epilogue)) return act(v, p.d.epilogue);
  void* const aux = const_cast<void*>(p.d.aux);
  const size_t at = i + j * static_cast<size_t>(p.d.aux_leading);
  if (p.d.epilogue == CUBLASLT_EPILOGUE_DGELU) return v * gelu_slope(load(aux, at, p.out.type));
  store(aux, at, p.out.type, v);
  return act(v, p.d.epilogue);
}

/// Of each column of op(B).
void sum_right(const Problem& p, const std::vector<float>& right) {
  for (size_t j = 0; j < p.n; ++j) {
    float sum = 0;
    for (size_t k = 0; k < p.k; ++k) sum += right[k * p.n + j];
    store(const_cast<void*>(p.d.bias), j, p.out.type, sum);
  }
}

void run(const Problem& p, const Algorithm& algorithm, float alpha, const void* a, const void* b, float beta,
         const void* c, void* out, float* workspace) {
  const bool tf32 = p.d.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  const std::vector<float> left = unpacked(a, p.a, p.d.transpose_a != CUBLAS_OP_N, tf32);
  const std::vector<float> right = unpacked(b, p.b, p.d.transpose_b != CUBLAS_OP_N, tf32);
  std::vector<float> whole(p.m * p.n);
  if (algorithm.parts == 1) {
    multiply(p, left, right, 0, p.k, whole.data());
  } else {
    for (size_t part = 0; part < algorithm.parts; ++part) {
      multiply(p, left, right, p.k * part / algorithm.parts, p.k * (part + 1) / algorithm.parts,
               workspace + part * p.m * p.n);
    }
    for (size_t part = 0; part < algorithm.parts; ++part) {
      for (size_t i = 0; i < whole.size(); ++i) whole[i] += workspace[part * p.m * p.n + i];
    }
  }
  for (size_t i = 0; i < p.m; ++i) {
    for (size_t j = 0; j < p.n; ++j) {
      float v = alpha * whole[i * p.n + j];
      if (beta != 0) v += beta * load(c, i + j * static_cast<size_t>(p.c.leading), p.c.type);
      if (p.d.epilogue & CUBLASLT_EPILOGUE_BIAS) v += load(p.d.bias, i, p.out.type);
      store(out, i + j * static_cast<size_t>(p.out.leading), p.out.type, finish(p, i, j, v));
    }
  }
  if (sums_right(p.d.epilogue)) sum_right(p, right);
}

template <typename T>
cublasStatus_t take(T& to, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasLtMatmulAlgo_t blob(size_t index) { return {{kMark, index, 0, 0, 0, 0, 0, 0}}; }
const Algorithm* read(const cublasLtMatmulAlgo_t* a) {
  return a != nullptr && a->data[0] == kMark && a->data[1] < std::size(kAlgorithms) ? &kAlgorithms[a->data[1]]
                                                                                    : nullptr;
}

bool lies_on(const void* address, uint64_t alignment) { return reinterpret_cast<uintptr_t>(address) % alignment == 0; }

}  // namespace
}  // namespace emulated_cuda

using namespace emulated_cuda;

size_t cublasLtGetVersion() { return 130000; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "CUBLAS_STATUS_UNKNOWN";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new LtHandle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t compute, cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *d = new LtMatmul{compute};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete d;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(d->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(d->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(d->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(d->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return take(d->bias_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return take(d->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return take(d->aux_leading, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  *l = new LtLayout{type, rows, columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete l;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
  *p = new LtPreference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(p->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(p->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t out, cublasLtMatmulPreference_t p, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  *count = 0;
  if (handle == nullptr || p == nullptr || wanted <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  Problem problem;
  if (const cublasStatus_t wrong = pose(problem, d, a, b, c, out); wrong != CUBLAS_STATUS_SUCCESS) return wrong;
  if (trains(d->epilogue) && !switches().trains_products) return CUBLAS_STATUS_NOT_SUPPORTED;
  const uint32_t alignment = *std::min_element(std::begin(p->alignment), std::end(p->alignment));
  for (size_t i = 0; i < std::size(kAlgorithms) && *count < wanted; ++i) {
    const Algorithm& algorithm = kAlgorithms[i];
    const bool splits = algorithm.parts > 1;
    if (algorithm.alignment > alignment || workspace_of(problem, algorithm) > p->workspace) continue;
    if (splits && (p->reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == 0) continue;
    results[(*count)++] = {blob(i), workspace_of(problem, algorithm), CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  }
  return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  Problem problem;
  if (const cublasStatus_t wrong = pose(problem, d, a, b, c, out); wrong != CUBLAS_STATUS_SUCCESS) return wrong;
  const Algorithm* found = read(algorithm);
  if (found == nullptr || (trains(d->epilogue) && !switches().trains_products)) return CUBLAS_STATUS_INVALID_VALUE;
  if (uses_bias(d->epilogue) && !lies_on(d->bias, 16)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (has_aux(d->epilogue) && !lies_on(d->aux, 16)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *result = {*algorithm, workspace_of(problem, *found), CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t d, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t layout_a, const void* b, cublasLtMatrixLayout_t layout_b,
                              const void* beta, const void* c, cublasLtMatrixLayout_t layout_c, void* out,
                              cublasLtMatrixLayout_t layout_out, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  Problem p;
  const cublasStatus_t wrong = pose(p, d, layout_a, layout_b, layout_c, layout_out);
  if (wrong != CUBLAS_STATUS_SUCCESS) return wrong;
  const cublasLtMatmulAlgo_t fallback = blob(std::size(kAlgorithms) - 1);
  const Algorithm* chosen = read(algorithm != nullptr ? algorithm : &fallback);
  if (chosen == nullptr || alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_of(p, *chosen) > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  for (const void* operand : {a, b, c, static_cast<const void*>(out)}) {
    if (!lies_on(operand, chosen->alignment)) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (!lies_on(workspace, chosen->parts > 1 ? 16 : 1)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool biased = uses_bias(p.d.epilogue), aux = has_aux(p.d.epilogue);
  if ((biased && p.d.bias == nullptr) || (aux && p.d.aux == nullptr)) return CUBLAS_STATUS_INVALID_VALUE;
  if (biased && !lies_on(p.d.bias, 16)) throw Fault("cublasLtMatmul loads 16 bytes of a bias at once");
  if (aux && !lies_on(p.d.aux, 16)) throw Fault("cublasLtMatmul loads 16 bytes of an aux matrix at once");
  for (const auto& [address, bytes] :
       {std::pair<const void*, size_t>{a, static_cast<size_t>(p.a.leading) * p.a.columns * size_of(p.a.type)},
        {b, static_cast<size_t>(p.b.leading) * p.b.columns * size_of(p.b.type)},
        {out, static_cast<size_t>(p.out.leading) * p.out.columns * size_of(p.out.type)},
        {biased ? p.d.bias : out, biased ? (sums_right(p.d.epilogue) ? p.n : p.m) * size_of(p.out.type) : 0},
        {aux ? p.d.aux : out, aux ? static_cast<size_t>(p.d.aux_leading) * p.n * size_of(p.out.type) : 0},
        {chosen->parts > 1 ? workspace : out, workspace_of(p, *chosen)}}) {
    if (where_is(address, bytes) == Where::host) throw Fault("cublasLtMatmul is given an address in host memory");
  }
  ++switches().library_calls;
  if (trains(p.d.epilogue)) ++switches().trained_products;
  const float x = *static_cast<const float*>(alpha), y = *static_cast<const float*>(beta);
  const cudaError_t queued = enqueue(stream, [p, chosen, x, a, b, y, c, out, workspace] {
    run(p, *chosen, x, a, b, y, c, out, static_cast<float*>(workspace));
  });
  return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
