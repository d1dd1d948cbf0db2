// The only file that reads cuDNN's frontend: headers alone, which take half a minute to compile.
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "kernels/cuda/attention_graphs.h"
#include "kernels/cuda/cudnn/cudnn_library.h"

namespace capstan::kernels::cuda {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;
using Addresses = std::unordered_map<int64_t, void*>;

enum Operand : int64_t { kQ = 1, kK, kV, kO, kStatistics, kOutputGradient, kQGradient, kKGradient, kVGradient };

struct Handle {
  cudnnHandle_t handle = nullptr;
  ~Handle() {
    if (handle != nullptr) cudnnDestroy(handle);
  }
};

void fill_operand(const Tensor& tensor, Operand id, const AttentionShape& s, int64_t heads, int64_t stride) {
  tensor->set_uid(id)
      .set_dim({s.batch, heads, s.queries, s.head_size})
      .set_stride({s.queries * stride, s.head_size, stride, 1})
      .set_data_type(s.dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF);
}

void fill_statistics(const Tensor& tensor, const AttentionShape& s) {
  const int64_t stride = s.statistic_stride > 0 ? s.statistic_stride : s.queries;
  tensor->set_uid(kStatistics)
      .set_dim({s.batch, s.heads, s.queries, 1})
      .set_stride({s.heads * stride, stride, 1, 1})
      .set_data_type(fe::DataType_t::FLOAT);
}

/// column + left > row and column <= row + right, which are our p - j < window and j <= p or j - p < window.
template <typename Attributes>
void set_mask(Attributes& attributes, const AttentionShape& s) {
  const bool window = s.window > 0 && s.window < s.keys;
  if (s.causal || window) attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT);
  if (s.causal || window) attributes.set_diagonal_band_right_bound(s.causal ? 0 : static_cast<int>(s.window) - 1);
  if (window) attributes.set_diagonal_band_left_bound(static_cast<int>(s.window));
}

class Graph {
 public:
  Graph(std::shared_ptr<Handle> handle, const AttentionShape& shape) : handle_(std::move(handle)) {
    graph_.set_io_data_type(shape.dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
  }
  Tensor operand(Operand id, const AttentionShape& s, int64_t heads, int64_t stride) {
    const Tensor tensor = graph_.tensor(fe::graph::Tensor_attributes());
    fill_operand(tensor, id, s, heads, stride);
    return tensor;
  }
  fe::graph::Graph& graph() { return graph_; }

  /// false: not offered for this shape, or not with the same bits every time.
  bool build() {
    if (graph_.validate().is_bad() || graph_.build_operation_graph(handle_->handle).is_bad()) return false;
    if (graph_.create_execution_plans({fe::HeurMode_t::A}).is_bad()) return false;
    graph_.deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC});
    if (graph_.check_support().is_bad() || graph_.build_plans().is_bad()) return false;
    int64_t bytes = 0;
    if (graph_.get_workspace_size(bytes).is_bad() || bytes < 0) return false;
    bytes_ = static_cast<size_t>(bytes);
    return true;
  }
  size_t workspace_bytes() const { return bytes_; }

  void run(Addresses addresses, void* workspace, Stream stream, const char* what) const {
    const cudnnStatus_t status = cudnnSetStream(handle_->handle, static_cast<cudaStream_t>(stream));
    if (status != CUDNN_STATUS_SUCCESS)
      throw std::runtime_error(std::string("cudnnSetStream for ") + what + ": " + cudnnGetErrorString(status));
    fe::error_t error = graph_.execute(handle_->handle, addresses, workspace);
    if (error.is_bad())
      throw std::runtime_error(std::string("cuDNN, ") + what + ": " + error.get_message() +
                               "; our own attention kernels run where libcudnn is not found");
  }

 private:
  std::shared_ptr<Handle> handle_;
  fe::graph::Graph graph_;
  size_t bytes_ = 0;
};

class CudnnForward final : public ForwardGraph {
 public:
  CudnnForward(std::shared_ptr<Handle> handle, const AttentionShape& s) : graph_(std::move(handle), s) {
    const Tensor q = graph_.operand(kQ, s, s.heads, s.q_stride), k = graph_.operand(kK, s, s.kv_heads, s.kv_stride),
                 v = graph_.operand(kV, s, s.kv_heads, s.kv_stride);
    fe::graph::SDPA_attributes attributes;
    attributes.set_name("attention").set_generate_stats(true).set_attn_scale(static_cast<float>(s.scale));
    set_mask(attributes, s);
    const auto [o, statistics] = graph_.graph().sdpa(q, k, v, attributes);
    o->set_output(true);
    fill_operand(o, kO, s, s.heads, s.o_stride);
    statistics->set_output(true);
    fill_statistics(statistics, s);
  }
  bool build() { return graph_.build(); }
  size_t workspace_bytes() const override { return graph_.workspace_bytes(); }
  void run(const AttentionArgs& a, void* workspace) const override {
    graph_.run({{kQ, const_cast<void*>(a.q)},
                {kK, const_cast<void*>(a.k)},
                {kV, const_cast<void*>(a.v)},
                {kO, a.o},
                {kStatistics, a.logsumexp}},
               workspace, a.stream, "attention");
  }

 private:
  Graph graph_;
};

class CudnnBackward final : public BackwardGraph {
 public:
  CudnnBackward(std::shared_ptr<Handle> handle, const AttentionShape& s) : graph_(std::move(handle), s) {
    const Tensor q = graph_.operand(kQ, s, s.heads, s.q_stride), k = graph_.operand(kK, s, s.kv_heads, s.kv_stride),
                 v = graph_.operand(kV, s, s.kv_heads, s.kv_stride), o = graph_.operand(kO, s, s.heads, s.o_stride),
                 d_o = graph_.operand(kOutputGradient, s, s.heads, s.o_stride),
                 statistics = graph_.graph().tensor(fe::graph::Tensor_attributes());
    fill_statistics(statistics, s);
    fe::graph::SDPA_backward_attributes attributes;
    attributes.set_name("attention_gradient")
        .set_attn_scale(static_cast<float>(s.scale))
        .set_deterministic_algorithm(true);
    set_mask(attributes, s);
    const auto [dq, dk, dv] = graph_.graph().sdpa_backward(q, k, v, o, d_o, statistics, attributes);
    for (const Tensor& result : {dq, dk, dv}) result->set_output(true);
    fill_operand(dq, kQGradient, s, s.heads, s.q_stride);
    fill_operand(dk, kKGradient, s, s.kv_heads, s.kv_stride);
    fill_operand(dv, kVGradient, s, s.kv_heads, s.kv_stride);
  }
  bool build() { return graph_.build(); }
  size_t workspace_bytes() const override { return graph_.workspace_bytes(); }
  void run(const AttentionBackwardArgs& a, void* workspace) const override {
    graph_.run({{kQ, const_cast<void*>(a.q)},
                {kK, const_cast<void*>(a.k)},
                {kV, const_cast<void*>(a.v)},
                {kO, const_cast<void*>(a.o)},
                {kStatistics, const_cast<void*>(a.logsumexp)},
                {kOutputGradient, const_cast<void*>(a.d_o)},
                {kQGradient, a.dq},
                {kKGradient, a.dk},
                {kVGradient, a.dv}},
               workspace, a.stream, "attention gradient");
  }

 private:
  Graph graph_;
};

class CudnnGraphs final : public AttentionGraphs {
 public:
  explicit CudnnGraphs(std::shared_ptr<Handle> handle) : handle_(std::move(handle)) {}
  std::string version() const override {
    const size_t v = cudnnGetVersion();
    return "cuDNN " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }
  std::unique_ptr<ForwardGraph> forward(const AttentionShape& s) override { return make<CudnnForward>(s); }
  std::unique_ptr<BackwardGraph> backward(const AttentionShape& s) override { return make<CudnnBackward>(s); }

 private:
  template <typename Graph>
  std::unique_ptr<Graph> make(const AttentionShape& s) const {
    try {
      auto graph = std::make_unique<Graph>(handle_, s);
      if (graph->build()) return graph;
    } catch (const std::exception&) {
      // The frontend throws where a descriptor of it fails: not offered either.
    }
    return nullptr;
  }

  std::shared_ptr<Handle> handle_;
};

}  // namespace

std::unique_ptr<AttentionGraphs> open_cudnn_graphs(std::string& why) {
  if (!load_cudnn(why)) return nullptr;
  auto handle = std::make_shared<Handle>();
  const cudnnStatus_t status = cudnnCreate(&handle->handle);
  if (status != CUDNN_STATUS_SUCCESS) {
    handle->handle = nullptr;
    why = std::string("cudnnCreate: ") + cudnnGetErrorString(status);
    return nullptr;
  }
  return std::make_unique<CudnnGraphs>(std::move(handle));
}

}  // namespace capstan::kernels::cuda
