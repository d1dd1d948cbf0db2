// The only file that reads cuDNN's frontend: headers alone, which take half a minute to compile.
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <algorithm>
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

/// The device that graphs are for: the current one, by its handle, or one that is only described.
struct Target {
  cudnnHandle_t handle = nullptr;
  std::shared_ptr<fe::DeviceProperties> described;
  int32_t capability = 0;  ///< of a described one: 90
  ~Target() {
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
  Graph(std::shared_ptr<Target> target, const AttentionShape& shape) : target_(std::move(target)) {
    graph_.set_io_data_type(shape.dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    if (target_->described) graph_.set_device_properties(target_->described).set_sm_version(target_->capability);
  }
  Tensor operand(Operand id, const AttentionShape& s, int64_t heads, int64_t stride) {
    const Tensor tensor = graph_.tensor(fe::graph::Tensor_attributes());
    fill_operand(tensor, id, s, heads, stride);
    return tensor;
  }
  fe::graph::Graph& graph() { return graph_; }

  /// Empty, or why it is not offered for this shape, or not with the same bits every time.
  std::string build() {
    const auto steps = {+[](Graph& g) { return g.graph_.validate(); },
                        +[](Graph& g) { return g.graph_.build_operation_graph(g.target_->handle); },
                        +[](Graph& g) { return g.graph_.create_execution_plans({fe::HeurMode_t::A}); },
                        +[](Graph& g) {
                          g.graph_.deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC});
                          return g.graph_.check_support();
                        },
                        +[](Graph& g) { return g.graph_.build_plans(); },
                        +[](Graph& g) { return g.graph_.get_workspace_size(g.bytes_); }};
    for (const auto step : steps)
      if (fe::error_t error = step(*this); error.is_bad()) return error.get_message() + " ";
    return {};
  }
  size_t workspace_bytes() const { return static_cast<size_t>(std::max<int64_t>(bytes_, 0)); }

  void run(Addresses addresses, void* workspace, Stream stream, const char* what) const {
    const cudnnStatus_t status = cudnnSetStream(target_->handle, static_cast<cudaStream_t>(stream));
    if (status != CUDNN_STATUS_SUCCESS)
      throw std::runtime_error(std::string("cudnnSetStream for ") + what + ": " + cudnnGetErrorString(status));
    fe::error_t error = graph_.execute(target_->handle, addresses, workspace);
    if (error.is_bad())
      throw std::runtime_error(std::string("cuDNN, ") + what + ": " + error.get_message() +
                               "; our own attention kernels run where libcudnn is not found");
  }

 private:
  std::shared_ptr<Target> target_;
  fe::graph::Graph graph_;
  int64_t bytes_ = 0;
};

class CudnnForward final : public ForwardGraph {
 public:
  CudnnForward(std::shared_ptr<Target> target, const AttentionShape& s) : graph_(std::move(target), s) {
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
  std::string build() { return graph_.build(); }
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
  CudnnBackward(std::shared_ptr<Target> target, const AttentionShape& s) : graph_(std::move(target), s) {
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
  std::string build() { return graph_.build(); }
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
  explicit CudnnGraphs(std::shared_ptr<Target> target) : target_(std::move(target)) {}
  std::string version() const override {
    const size_t v = cudnnGetVersion();
    return "cuDNN " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }
  std::string refusal() const override { return refusal_; }
  std::unique_ptr<ForwardGraph> forward(const AttentionShape& s) override { return make<CudnnForward>(s); }
  std::unique_ptr<BackwardGraph> backward(const AttentionShape& s) override { return make<CudnnBackward>(s); }

 private:
  template <typename Graph>
  std::unique_ptr<Graph> make(const AttentionShape& s) {
    try {
      auto graph = std::make_unique<Graph>(target_, s);
      refusal_ = graph->build();
      if (refusal_.empty()) return graph;
    } catch (const std::exception& error) {  // the frontend throws where a descriptor of it fails
      refusal_ = error.what();
    }
    return nullptr;
  }

  std::shared_ptr<Target> target_;
  std::string refusal_;
};

}  // namespace

std::unique_ptr<AttentionGraphs> open_cudnn_graphs(std::string& why) {
  if (!load_cudnn(why)) return nullptr;
  auto target = std::make_shared<Target>();
  const cudnnStatus_t status = cudnnCreate(&target->handle);
  if (status != CUDNN_STATUS_SUCCESS) {
    target->handle = nullptr;
    why = std::string("cudnnCreate: ") + cudnnGetErrorString(status);
    return nullptr;
  }
  return std::make_unique<CudnnGraphs>(std::move(target));
}

std::unique_ptr<AttentionGraphs> describe_cudnn_graphs(const std::string& device, int capability, std::string& why) {
  if (!load_cudnn(why)) return nullptr;
  auto target = std::make_shared<Target>();
  target->described = std::make_shared<fe::DeviceProperties>();
  target->capability = capability;
  fe::error_t error = target->described->deserialize({device.begin(), device.end()});
  if (error.is_bad()) {
    why = "cuDNN does not read the description of a device: " + error.get_message();
    return nullptr;
  }
  return std::make_unique<CudnnGraphs>(std::move(target));
}

}  // namespace capstan::kernels::cuda
