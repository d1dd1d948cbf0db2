#include "kernels/cuda/graph_attention.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <utility>

namespace capstan::kernels::cuda {
namespace {

constexpr size_t kBoundary = 256;  // of a workspace
constexpr int64_t kVector = 8;     // elements of 16 bits that a graph loads at once

size_t up(size_t bytes) { return (bytes + kBoundary - 1) / kBoundary * kBoundary; }
char* up(void* p) {
  return static_cast<char*>(p) + (up(reinterpret_cast<uintptr_t>(p)) - reinterpret_cast<uintptr_t>(p));
}

template <typename... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

bool is_plain(const AttentionMask& m, const Dropout& dropout) {
  return dropout.probability == 0.0 && !m.query_documents && !m.key_documents && !m.key_lengths && !m.prefix_lengths &&
         !m.alibi_slopes && !m.distance_bias && !m.relative_q && !m.relative_k;
}

/// All of a shape that a graph holds. Which heads of a model these are matters to dropout only.
using GraphKey = std::array<int64_t, 13>;
GraphKey key_of(const AttentionShape& s) {
  return {s.batch,
          s.queries,
          s.heads,
          s.kv_heads,
          s.head_size,
          s.q_stride,
          s.kv_stride,
          s.o_stride,
          s.statistic_stride,
          s.window,
          s.causal,
          static_cast<int64_t>(s.dtype),
          std::bit_cast<int64_t>(s.scale)};
}

/// Of floats that stand in for a logsumexp nobody asked for.
size_t statistics_bytes(const AttentionShape& s) {
  return static_cast<size_t>(s.batch * s.heads * std::max(s.statistic_stride, s.queries)) * sizeof(float);
}

/// What the four entries of a table share.
class GraphCache {
 public:
  GraphCache(const Backend& table, std::shared_ptr<AttentionGraphs> graphs, const DeviceFacts& device,
             const AttentionOptions& options)
      : graphs_(std::move(graphs)),
        device_(device),
        options_(options),
        own_(table.attention),
        own_backward_(table.attention_backward),
        own_scratch_(table.attention_scratch),
        own_backward_scratch_(table.attention_backward_scratch) {}

  size_t scratch(const AttentionShape& s) {
    const size_t own = own_scratch_(s);
    const ForwardGraph* graph = build(forward_, s, [&] { return graphs_->forward(s); });
    return graph == nullptr ? own : std::max(own, kBoundary + up(graph->workspace_bytes()) + statistics_bytes(s));
  }
  size_t backward_scratch(const AttentionShape& s) {
    const size_t own = own_backward_scratch_(s);
    const BackwardGraph* graph = build(backward_, s, [&] { return graphs_->backward(s); });
    return graph == nullptr ? own : std::max(own, kBoundary + graph->workspace_bytes());
  }

  void run(const AttentionArgs& args) const {
    const bool plain = is_plain(args.mask, args.dropout) && !args.merge && aligned(args.q, args.k, args.v, args.o);
    const ForwardGraph* graph = plain ? find(forward_, args.shape) : nullptr;
    if (graph == nullptr) return own_(args);
    AttentionArgs now = args;
    char* workspace = up(args.scratch);
    if (now.logsumexp == nullptr) now.logsumexp = workspace + up(graph->workspace_bytes());
    graph->run(now, workspace);
  }
  void run(const AttentionBackwardArgs& args) const {
    const bool plain = is_plain(args.mask, args.dropout) && !args.accumulate &&
                       aligned(args.q, args.k, args.v, args.o, args.d_o, args.dq, args.dk, args.dv);
    const BackwardGraph* graph = plain ? find(backward_, args.shape) : nullptr;
    if (graph == nullptr) return own_backward_(args);
    graph->run(args, up(args.scratch));
  }

 private:
  template <typename Graph>
  using Graphs = std::map<GraphKey, std::unique_ptr<Graph>>;  // null: tried, and not to be had

  template <typename Graph, typename Make>
  const Graph* build(Graphs<Graph>& all, const AttentionShape& s, Make&& make) {
    if (!graphs_cover(s, device_)) return nullptr;
    const auto [at, added] = all.try_emplace(key_of(s));
    if (added) at->second = make();
    if (added && at->second && at->second->workspace_bytes() > options_.workspace_limit) at->second.reset();
    return at->second.get();
  }
  template <typename Graph>
  const Graph* find(const Graphs<Graph>& all, const AttentionShape& s) const {
    if (!graphs_cover(s, device_)) return nullptr;
    const auto at = all.find(key_of(s));
    return at == all.end() ? nullptr : at->second.get();
  }

  std::shared_ptr<AttentionGraphs> graphs_;
  DeviceFacts device_;
  AttentionOptions options_;
  decltype(Backend::attention) own_;
  decltype(Backend::attention_backward) own_backward_;
  decltype(Backend::attention_scratch) own_scratch_;
  decltype(Backend::attention_backward_scratch) own_backward_scratch_;
  Graphs<ForwardGraph> forward_;
  Graphs<BackwardGraph> backward_;
};

}  // namespace

bool graphs_cover(const AttentionShape& s, const DeviceFacts& device) {
  const bool halves = s.dtype == DType::bf16 || s.dtype == DType::f16;
  const bool simple = !s.is_block() && s.bias_distances == 0 && s.relative_distances == 0;
  // Keys j and queries i of one sequence, so that no query sees no key; a single query is a matter for decoding.
  const bool whole = s.batch > 0 && s.queries == s.keys && s.queries > 1;
  const int64_t largest_head = device.major == 9 ? 256 : 128;
  const bool heads = s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.head_size > 0 && s.head_size % kVector == 0 &&
                     s.head_size <= largest_head;
  const bool strides = s.q_stride % kVector == 0 && s.kv_stride % kVector == 0 && s.o_stride % kVector == 0;
  return halves && simple && whole && heads && strides;
}

void add_attention_graphs(Backend& table, std::shared_ptr<AttentionGraphs> graphs, const DeviceFacts& device,
                          const AttentionOptions& options) {
  const auto cache = std::make_shared<GraphCache>(table, std::move(graphs), device, options);
  table.attention_scratch = [cache](const AttentionShape& s) { return cache->scratch(s); };
  table.attention_backward_scratch = [cache](const AttentionShape& s) { return cache->backward_scratch(s); };
  table.attention = [cache](const AttentionArgs& args) { cache->run(args); };
  table.attention_backward = [cache](const AttentionBackwardArgs& args) { cache->run(args); };
}

std::string add_cudnn_attention(Backend& table, const DeviceFacts& device, const AttentionOptions& options) {
  if (!options.cudnn) return "own attention kernels, as asked for";
  std::string why;
  std::shared_ptr<AttentionGraphs> graphs = open_cudnn_graphs(why);
  if (!graphs) return "own attention kernels: " + why;
  const std::string version = graphs->version();
  add_attention_graphs(table, std::move(graphs), device, options);
  return version;
}

}  // namespace capstan::kernels::cuda
