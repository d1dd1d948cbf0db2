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

int64_t next_divisor_below(int64_t n, int64_t d) {
  do --d;
  while (d > 1 && n % d != 0);
  return d;
}

/// The part of a shape that one run of a backward graph covers: some samples with all heads, or some heads of one.
/// The next smaller one; without heads when there is none.
AttentionShape smaller_piece(const AttentionShape& whole, AttentionShape piece) {
  if (piece.batch > 1) {
    piece.batch = next_divisor_below(whole.batch, piece.batch);
  } else {
    piece.kv_heads = piece.kv_heads > 1 ? next_divisor_below(whole.kv_heads, piece.kv_heads) : 0;
    piece.heads = piece.kv_heads * (whole.heads / whole.kv_heads);
  }
  return piece;
}

/// At least this is kept by a deterministic backward graph.
size_t least_workspace(const AttentionShape& s) {
  return static_cast<size_t>(s.batch * s.heads) * static_cast<size_t>(s.queries) * static_cast<size_t>(s.keys) *
         bytes_of(s.dtype);
}

/// The same call for the piece that starts at a sample and a key/value head.
AttentionBackwardArgs part_of(const AttentionBackwardArgs& args, const AttentionShape& piece, int64_t sample,
                              int64_t kv_head) {
  const AttentionShape& s = args.shape;
  const int64_t head = kv_head * (s.heads / s.kv_heads), size = static_cast<int64_t>(bytes_of(s.dtype));
  const int64_t at_q = (sample * s.queries * s.q_stride + head * s.head_size) * size;
  const int64_t at_o = (sample * s.queries * s.o_stride + head * s.head_size) * size;
  const int64_t at_k = (sample * s.keys * s.kv_stride + kv_head * s.head_size) * size;
  const auto in = [](const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; };
  const auto out = [](void* p, int64_t bytes) { return static_cast<char*>(p) + bytes; };
  AttentionBackwardArgs part = args;
  part.shape = piece;
  part.q = in(args.q, at_q), part.dq = out(args.dq, at_q);
  part.o = in(args.o, at_o), part.d_o = in(args.d_o, at_o);
  part.k = in(args.k, at_k), part.dk = out(args.dk, at_k);
  part.v = in(args.v, at_k), part.dv = out(args.dv, at_k);
  part.logsumexp = static_cast<const float*>(args.logsumexp) + s.statistic(sample, head);
  return part;
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
        own_backward_scratch_(table.attention_backward_scratch) {
    if (options_.workspace_limit == 0) options_.workspace_limit = device.memory_bytes / 32;
  }

  size_t scratch(const AttentionShape& s) {
    const size_t own = own_scratch_(s);
    if (!graphs_cover(s, device_)) return own;
    const auto [at, added] = forward_.try_emplace(key_of(s));
    if (added) at->second = graphs_->forward(s);
    if (added && at->second && at->second->workspace_bytes() > options_.workspace_limit) at->second.reset();
    if (at->second == nullptr) return own;
    return std::max(own, kBoundary + up(at->second->workspace_bytes()) + statistics_bytes(s));
  }
  size_t backward_scratch(const AttentionShape& s) {
    const size_t own = own_backward_scratch_(s);
    if (!graphs_cover(s, device_)) return own;
    const auto [at, added] = backward_.try_emplace(key_of(s));
    if (added) at->second = build_backward(s);
    if (at->second.graph == nullptr) return own;
    return std::max(own, kBoundary + at->second.graph->workspace_bytes());
  }

  void run(const AttentionArgs& args) const {
    const bool plain = is_plain(args.mask, args.dropout) && !args.merge && aligned(args.q, args.k, args.v, args.o);
    const auto at = plain && graphs_cover(args.shape, device_) ? forward_.find(key_of(args.shape)) : forward_.end();
    if (at == forward_.end() || at->second == nullptr) return own_(args);
    AttentionArgs now = args;
    char* workspace = up(args.scratch);
    if (now.logsumexp == nullptr) now.logsumexp = workspace + up(at->second->workspace_bytes());
    at->second->run(now, workspace);
  }
  void run(const AttentionBackwardArgs& args) const {
    const bool plain = is_plain(args.mask, args.dropout) && !args.accumulate &&
                       aligned(args.q, args.k, args.v, args.o, args.d_o, args.dq, args.dk, args.dv);
    const auto at = plain && graphs_cover(args.shape, device_) ? backward_.find(key_of(args.shape)) : backward_.end();
    if (at == backward_.end() || at->second.graph == nullptr) return own_backward_(args);
    const AttentionShape& piece = at->second.piece;
    for (int64_t sample = 0; sample < args.shape.batch; sample += piece.batch)
      for (int64_t kv_head = 0; kv_head < args.shape.kv_heads; kv_head += piece.kv_heads)
        at->second.graph->run(part_of(args, piece, sample, kv_head), up(args.scratch));
  }

 private:
  /// A graph and what one run of it covers. Null: tried, and not to be had.
  struct Backward {
    std::unique_ptr<BackwardGraph> graph;
    AttentionShape piece;
  };

  Backward build_backward(const AttentionShape& s) const {
    for (AttentionShape piece = s; piece.heads > 0; piece = smaller_piece(s, piece)) {
      if (least_workspace(piece) > options_.workspace_limit) continue;
      std::unique_ptr<BackwardGraph> graph = graphs_->backward(piece);
      if (graph == nullptr) break;
      if (graph->workspace_bytes() <= options_.workspace_limit) return {std::move(graph), piece};
    }
    return {};
  }

  std::shared_ptr<AttentionGraphs> graphs_;
  DeviceFacts device_;
  AttentionOptions options_;
  decltype(Backend::attention) own_;
  decltype(Backend::attention_backward) own_backward_;
  decltype(Backend::attention_scratch) own_scratch_;
  decltype(Backend::attention_backward_scratch) own_backward_scratch_;
  std::map<GraphKey, std::unique_ptr<ForwardGraph>> forward_;  // null: tried, and not to be had
  std::map<GraphKey, Backward> backward_;
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
