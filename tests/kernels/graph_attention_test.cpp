// label: cpu, links: capstan_cuda_emulated
// Which calls of attention go to a library's graphs and which to our own kernels, and that every call finds its
// scratch.
#include "kernels/cuda/graph_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace capstan::kernels::testing {
namespace {

using cuda::AttentionGraphs;
using cuda::BackwardGraph;
using cuda::ForwardGraph;
using cuda::graphs_cover;

/// What ran last, and with what.
struct Trace {
  int built = 0, graph_runs = 0, own_runs = 0;
  const void* logsumexp = nullptr;
  size_t workspace = 1000;  ///< of forward graphs built from here on
  double statistics_seen = 0;
};

struct FakeForward final : ForwardGraph {
  explicit FakeForward(Trace& t) : trace(t), bytes(t.workspace) {}
  size_t workspace_bytes() const override { return bytes; }
  void run(const AttentionArgs& args, void* workspace) const override {
    ++trace.graph_runs;
    trace.logsumexp = args.logsumexp;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(workspace) % 256, 0u);
    std::memset(workspace, 1, bytes);
    std::memset(args.logsumexp, 1, static_cast<size_t>(args.shape.batch * args.shape.heads * args.shape.queries) * 4);
  }
  Trace& trace;
  size_t bytes;
};

struct FakeBackward final : BackwardGraph {
  FakeBackward(Trace& t, const AttentionShape& s)
      : trace(t), shape(s), bytes(static_cast<size_t>(s.batch * s.heads * s.queries * s.keys) * 2 + 100) {}
  size_t workspace_bytes() const override { return bytes; }
  /// Marks what it covers: one more in each element of its heads.
  void run(const AttentionBackwardArgs& a, void* workspace) const override {
    ++trace.graph_runs;
    std::memset(workspace, 1, bytes);
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t t = 0; t < shape.queries; ++t) {
        const auto mark = [&](void* to, int64_t stride, int64_t heads) {
          auto* row = static_cast<uint16_t*>(to) + (b * shape.queries + t) * stride;
          for (int64_t i = 0; i < heads * shape.head_size; ++i) ++row[i];
        };
        mark(a.dq, shape.q_stride, shape.heads);
        for (void* to : {a.dk, a.dv}) mark(to, shape.kv_stride, shape.kv_heads);
      }
      for (int64_t h = 0; h < shape.heads; ++h)
        for (int64_t t = 0; t < shape.queries; ++t)
          trace.statistics_seen += static_cast<const float*>(a.logsumexp)[shape.statistic(b, h) + t];
    }
  }
  Trace& trace;
  AttentionShape shape;
  size_t bytes;
};

/// Graphs for all but head size 40.
struct FakeGraphs final : AttentionGraphs {
  explicit FakeGraphs(Trace& t) : trace(t) {}
  std::string version() const override { return "fake"; }
  std::string refusal() const override { return "head size 40"; }
  std::unique_ptr<ForwardGraph> forward(const AttentionShape& s) override {
    ++trace.built;
    if (s.head_size == 40) return nullptr;
    return std::make_unique<FakeForward>(trace);
  }
  std::unique_ptr<BackwardGraph> backward(const AttentionShape& s) override {
    ++trace.built;
    if (s.head_size == 40) return nullptr;
    return std::make_unique<FakeBackward>(trace, s);
  }
  Trace& trace;
};

AttentionShape usual() {
  AttentionShape s;
  s.batch = 2, s.queries = s.keys = 64, s.heads = 4, s.kv_heads = 2, s.head_size = 64;
  s.q_stride = 4 * 64, s.kv_stride = 2 * 64, s.o_stride = 4 * 64;
  s.dtype = DType::bf16;
  return s;
}

DeviceFacts ampere() {
  DeviceFacts facts;
  facts.major = 8;
  return facts;
}

class GraphAttention : public ::testing::Test {
 protected:
  GraphAttention() { limit(1 << 20); }

  /// The same table anew, with a limit for the workspace of a graph.
  void limit(size_t bytes) {
    table_.attention = [this](const AttentionArgs&) { ++trace_.own_runs; };
    table_.attention_backward = [this](const AttentionBackwardArgs&) { ++trace_.own_runs; };
    table_.attention_scratch = table_.attention_backward_scratch = [](const AttentionShape&) { return size_t{100}; };
    cuda::AttentionOptions options;
    options.workspace_limit = bytes;
    cuda::add_attention_graphs(table_, std::make_shared<FakeGraphs>(trace_), ampere(), options);
  }

  AttentionArgs call(const AttentionShape& shape) {
    scratch_.assign(table_.attention_scratch(shape), 0);
    AttentionArgs args;
    args.shape = shape;
    args.q = args.k = args.v = operand_;
    args.o = operand_;
    args.logsumexp = logsumexp_.data();
    args.scratch = scratch_.data();
    return args;
  }
  AttentionBackwardArgs backward_call(const AttentionShape& shape) {
    scratch_.assign(table_.attention_backward_scratch(shape), 0);
    AttentionBackwardArgs args;
    args.shape = shape;
    args.q = args.k = args.v = args.o = args.d_o = operand_;
    args.dq = dq_.data(), args.dk = dk_.data(), args.dv = dv_.data();
    args.logsumexp = logsumexp_.data();
    args.scratch = scratch_.data();
    return args;
  }
  bool by_graph(const AttentionArgs& args) {
    const int before = trace_.graph_runs, own = trace_.own_runs;
    table_.attention(args);
    EXPECT_EQ(trace_.graph_runs + trace_.own_runs, before + own + 1);
    return trace_.graph_runs > before;
  }
  bool by_graph(const AttentionBackwardArgs& args) {
    const int before = trace_.graph_runs;
    table_.attention_backward(args);
    return trace_.graph_runs > before;
  }

  Trace trace_;
  Backend table_;
  std::vector<char> scratch_;
  std::vector<float> logsumexp_ = std::vector<float>(2 * 4 * 64);
  // Of usual(): 2 samples of 64 tokens with 4 heads of 64 and 2 key/value heads.
  std::vector<uint16_t> dq_ = std::vector<uint16_t>(2 * 64 * 256), dk_ = std::vector<uint16_t>(2 * 64 * 128), dv_ = dk_;
  alignas(16) char operand_[32] = {};
};

TEST_F(GraphAttention, APlainCallGoesToItsGraphWhichIsBuiltOnce) {
  EXPECT_TRUE(by_graph(call(usual())));
  EXPECT_TRUE(by_graph(call(usual())));
  EXPECT_EQ(trace_.built, 1);
  EXPECT_TRUE(by_graph(backward_call(usual())));
  EXPECT_EQ(trace_.built, 2);
  AttentionShape part = usual();
  part.first_head = 4, part.all_heads = 8;  // matters to dropout only
  EXPECT_TRUE(by_graph(call(part)));
  EXPECT_EQ(trace_.built, 2);
  AttentionShape other = usual();
  other.scale = 0.5;
  EXPECT_TRUE(by_graph(call(other)));
  EXPECT_EQ(trace_.built, 3);
}

TEST_F(GraphAttention, WithoutBackwardTheStatisticsLieInTheScratch) {
  AttentionArgs args = call(usual());
  args.logsumexp = nullptr;
  EXPECT_TRUE(by_graph(args));
  const char* statistics = static_cast<const char*>(trace_.logsumexp);
  EXPECT_GE(statistics, scratch_.data());
  EXPECT_LE(statistics + 2 * 4 * 64 * 4, scratch_.data() + scratch_.size());
}

TEST_F(GraphAttention, AShapeThatWasNeverBoundRunsOnOurKernel) {
  AttentionArgs args = call(usual());
  args.shape.queries = args.shape.keys = 32;
  EXPECT_FALSE(by_graph(args));
  EXPECT_EQ(trace_.built, 1) << "nothing is built in a call";
}

TEST_F(GraphAttention, WhatTheLibraryDoesNotOfferRunsOnOurKernel) {
  AttentionShape s = usual();
  s.head_size = 40, s.q_stride = s.o_stride = 160, s.kv_stride = 80;
  EXPECT_EQ(table_.attention_scratch(s), 100u);
  EXPECT_FALSE(by_graph(call(s)));
  EXPECT_EQ(trace_.built, 1) << "asked once only";
  limit(5000);
  trace_.workspace = 6000;
  EXPECT_EQ(table_.attention_scratch(usual()), 100u) << "a workspace beyond the limit";
  EXPECT_FALSE(by_graph(call(usual())));
  EXPECT_EQ(table_.attention_backward_scratch(usual()), 100u) << "not even two heads of a sample fit";
  EXPECT_FALSE(by_graph(backward_call(usual())));
}

TEST_F(GraphAttention, ABackwardBeyondTheLimitRunsInPieces) {
  const size_t of_head = 64 * 64 * 2;
  for (const auto& [room, runs] : {std::pair<size_t, int>{8 * of_head, 1}, {4 * of_head, 2}, {2 * of_head, 4}}) {
    limit(room + 100);
    for (auto* result : {&dq_, &dk_, &dv_}) std::fill(result->begin(), result->end(), 0);
    for (size_t i = 0; i < logsumexp_.size(); ++i) logsumexp_[i] = static_cast<float>(i);
    trace_.graph_runs = 0, trace_.statistics_seen = 0;
    const AttentionBackwardArgs args = backward_call(usual());
    EXPECT_LE(scratch_.size(), room + 100 + 256);
    table_.attention_backward(args);
    EXPECT_EQ(trace_.graph_runs, runs);
    for (const auto* result : {&dq_, &dk_, &dv_})
      EXPECT_EQ(std::count(result->begin(), result->end(), 1), static_cast<int64_t>(result->size())) << runs;
    EXPECT_EQ(trace_.statistics_seen, 512.0 * 511 / 2);
  }
  limit(2 * of_head + 50);  // the estimate fits and the graph does not
  EXPECT_EQ(table_.attention_backward_scratch(usual()), 100u);
}

TEST_F(GraphAttention, MasksAndModesThatGraphsDoNotHaveRunOnOurKernel) {
  const int32_t ids[1] = {};
  const float slopes[1] = {};
  const auto refused = [&](auto&& change) {
    AttentionArgs args = call(usual());
    change(args);
    return !by_graph(args);
  };
  EXPECT_TRUE(refused([&](auto& a) { a.mask.query_documents = a.mask.key_documents = ids; }));
  EXPECT_TRUE(refused([&](auto& a) { a.mask.key_lengths = ids; }));
  EXPECT_TRUE(refused([&](auto& a) { a.mask.prefix_lengths = ids; }));
  EXPECT_TRUE(refused([&](auto& a) { a.mask.alibi_slopes = slopes; }));
  EXPECT_TRUE(refused([&](auto& a) { a.mask.distance_bias = slopes; }));
  EXPECT_TRUE(refused([&](auto& a) { a.mask.relative_q = slopes; }));
  EXPECT_TRUE(refused([&](auto& a) { a.dropout.probability = 0.1; }));
  EXPECT_TRUE(refused([&](auto& a) { a.merge = true; }));
  EXPECT_TRUE(refused([&](auto& a) { a.q = operand_ + 2; }));
  EXPECT_TRUE(refused([&](auto& a) { a.o = operand_ + 8; }));
  EXPECT_FALSE(refused([&](auto&) {}));
  AttentionBackwardArgs backward = backward_call(usual());
  EXPECT_TRUE(by_graph(backward));
  backward.accumulate = true;
  EXPECT_FALSE(by_graph(backward));
  backward.accumulate = false, backward.dk = dk_.data() + 1;
  EXPECT_FALSE(by_graph(backward));
}

TEST(GraphsCover, ShapesByDevice) {
  const auto covered = [](auto&& change, int major = 8) {
    AttentionShape s = usual();
    change(s);
    DeviceFacts facts;
    facts.major = major;
    return graphs_cover(s, facts);
  };
  EXPECT_TRUE(covered([](auto&) {}));
  EXPECT_TRUE(covered([](auto& s) { s.dtype = DType::f16; }));
  EXPECT_TRUE(covered([](auto& s) { s.causal = false, s.window = 5; }));
  EXPECT_TRUE(covered([](auto& s) { s.kv_stride = 3 * 64; })) << "k beside v in one projection";
  EXPECT_FALSE(covered([](auto& s) { s.dtype = DType::f32; }));
  EXPECT_FALSE(covered([](auto& s) { s.queries = 1; })) << "decoding";
  EXPECT_FALSE(covered([](auto& s) { s.queries = s.keys = 1; }));
  EXPECT_FALSE(covered([](auto& s) { s.keys = 128; }));
  EXPECT_FALSE(covered([](auto& s) { s.all_queries = s.all_keys = 128; })) << "a block of longer sequences";
  EXPECT_FALSE(covered([](auto& s) { s.bias_distances = 8; }));
  EXPECT_FALSE(covered([](auto& s) { s.relative_distances = 8; }));
  EXPECT_FALSE(covered([](auto& s) { s.head_size = 60; }));
  EXPECT_FALSE(covered([](auto& s) { s.head_size = 192; }));
  EXPECT_TRUE(covered([](auto& s) { s.head_size = 192; }, 9));
  EXPECT_FALSE(covered([](auto& s) { s.kv_stride = 132; })) << "rows off the 16-byte boundaries";
  EXPECT_FALSE(covered([](auto& s) { s.heads = 3; }));
}

}  // namespace
}  // namespace capstan::kernels::testing
