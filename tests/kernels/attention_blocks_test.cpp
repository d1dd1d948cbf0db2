// label: cpu
// Attention cut into blocks of queries and keys, as ranks of a context parallel group compute it: outputs merged and
// gradients accumulated over the blocks, in any order, equal those of the whole sequence, under every mask rule.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/kernel_backends.h"

namespace capstan::kernels::testing {
namespace {

const uint64_t kKey = 77, kSample = 3;

struct Setting {
  std::string name;
  AttentionShape shape;
  std::vector<int32_t> documents, prefix_lengths;
  std::vector<float> slopes;
  double dropout = 0.0;
};

/// Elements of a dtype, read and written as doubles.
struct Array {
  DType dtype;
  std::vector<unsigned char> bytes;
  Array(DType type, int64_t count, double value) : dtype(type), bytes(static_cast<size_t>(count) * bytes_of(type)) {
    for (int64_t i = 0; i < count; ++i) set(i, value);
  }
  Array(DType type, int64_t count, uint32_t seed) : Array(type, count, 0.0) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < count; ++i) set(i, static_cast<int32_t>(random()) * 0x1p-31);
  }
  int64_t size() const { return static_cast<int64_t>(bytes.size() / bytes_of(dtype)); }
  void* at(int64_t i) { return bytes.data() + static_cast<size_t>(i) * bytes_of(dtype); }
  void set(int64_t i, double x) {
    if (dtype == DType::f64) *static_cast<double*>(at(i)) = x;
    if (dtype == DType::f32) *static_cast<float*>(at(i)) = static_cast<float>(x);
    if (dtype == DType::bf16) *static_cast<BFloat16*>(at(i)) = BFloat16(static_cast<float>(x));
    if (dtype == DType::f16) *static_cast<Float16*>(at(i)) = Float16(static_cast<float>(x));
  }
  double get(int64_t i) {
    if (dtype == DType::f64) return *static_cast<double*>(at(i));
    if (dtype == DType::f16) return static_cast<float>(*static_cast<Float16*>(at(i)));
    return dtype == DType::f32 ? *static_cast<float*>(at(i)) : static_cast<float>(*static_cast<BFloat16*>(at(i)));
  }
};

/// Inputs and results of one sequence; heads side by side.
struct Attending {
  Setting setting;
  Backend backend;
  DType dtype;
  Array q, k, v, d_o, o, logsumexp, dq, dk, dv;
  Array table, relative_q, relative_k, d_table, d_relative_q, d_relative_k;
  std::vector<unsigned char> scratch;

  /// `sums`: of o and the gradients.
  Attending(const Setting& s, const Backend& b, DType type, DType sums)
      : setting(s),
        backend(b),
        dtype(type),
        q(type, s.shape.queries * s.shape.q_stride, 1u),
        k(type, s.shape.keys * s.shape.kv_stride, 2u),
        v(type, s.shape.keys * s.shape.kv_stride, 3u),
        d_o(type, q.size(), 4u),
        o(sums, q.size(), 0.0),
        logsumexp(accumulation_of(type), s.shape.heads * s.shape.queries, -std::numeric_limits<double>::infinity()),
        dq(sums, q.size(), 0.0),
        dk(sums, k.size(), 0.0),
        dv(sums, k.size(), 0.0),
        table(type, s.shape.bias_distances * s.shape.heads, 5u),
        relative_q(type, q.size(), 6u),
        relative_k(type, s.shape.relative_distances * s.shape.heads * s.shape.head_size, 7u),
        d_table(sums, table.size(), 0.0),
        d_relative_q(sums, q.size(), 0.0),
        d_relative_k(sums, relative_k.size(), 0.0) {}

  struct Block {
    int64_t query, queries, key, keys;
  };
  AttentionShape shape_of(const Block& block) const {
    AttentionShape s = setting.shape;
    s.dtype = dtype;
    s.all_queries = s.queries, s.all_keys = s.keys, s.statistic_stride = s.queries;
    s.first_query = block.query, s.queries = block.queries, s.first_key = block.key, s.keys = block.keys;
    return s;
  }
  template <typename Args>
  void point(Args& args, const Block* block) {
    args.mask.prefix_lengths = setting.prefix_lengths.empty() ? nullptr : setting.prefix_lengths.data();
    args.mask.alibi_slopes = setting.slopes.empty() ? nullptr : setting.slopes.data();
    args.dropout = {setting.dropout, 9, &kKey, &kSample};
    const int64_t query = block ? block->query : 0, key = block ? block->key : 0;
    args.mask.distance_bias = table.at(0), args.mask.relative_k = relative_k.at(0);
    args.mask.relative_q = relative_q.at(query * setting.shape.q_stride);
    args.shape = setting.shape, args.shape.dtype = dtype;
    if (block) args.shape = shape_of(*block);
    if (!setting.documents.empty()) {
      args.mask.query_documents = setting.documents.data() + query;
      args.mask.key_documents = setting.documents.data() + key;
    }
    args.q = q.at(query * args.shape.q_stride);
    args.k = k.at(key * args.shape.kv_stride), args.v = v.at(key * args.shape.kv_stride);
    scratch.resize(std::max(backend.attention_scratch(args.shape), backend.attention_backward_scratch(args.shape)) +
                   64);
    args.scratch = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
  }
  /// Everything that a call may be pointed to.
  void tell(Mirror& mirror, Attending& of) {
    for (const Array* array : {&q, &k, &v, &d_o, &of.o, &of.logsumexp, &dq, &dk, &dv, &table, &relative_q, &relative_k,
                               &d_table, &d_relative_q, &d_relative_k})
      mirror.add(array->bytes);
    mirror.add(setting.documents), mirror.add(setting.prefix_lengths), mirror.add(setting.slopes);
    mirror.add(scratch);
  }
  template <typename Args>
  static void move(const Mirror& mirror, Args& args) {
    AttentionMask& m = args.mask;
    mirror.move(m.prefix_lengths), mirror.move(m.alibi_slopes), mirror.move(m.distance_bias);
    mirror.move(m.relative_q), mirror.move(m.relative_k);
    mirror.move(m.query_documents), mirror.move(m.key_documents);
    mirror.move(args.q), mirror.move(args.k), mirror.move(args.v), mirror.move(args.o), mirror.move(args.logsumexp);
    mirror.move(args.scratch);
  }
  void forward(const Block* block) {
    AttentionArgs args;
    point(args, block);
    const int64_t query = block ? block->query : 0;
    args.o = o.at(query * args.shape.o_stride), args.logsumexp = logsumexp.at(query);
    args.merge = block != nullptr;
    Mirror mirror(backend);
    tell(mirror, *this);
    move(mirror, args);
    backend.attention(args);
    mirror.back();
  }
  /// Given the outputs of another run.
  void backward(const Block* block, Attending& of) {
    AttentionBackwardArgs args;
    point(args, block);
    const int64_t query = block ? block->query : 0, key = block ? block->key : 0;
    args.o = of.o.at(query * args.shape.o_stride), args.logsumexp = of.logsumexp.at(query);
    args.d_o = d_o.at(query * args.shape.o_stride), args.dq = dq.at(query * args.shape.q_stride);
    args.dk = dk.at(key * args.shape.kv_stride), args.dv = dv.at(key * args.shape.kv_stride);
    args.d_distance_bias = d_table.at(0), args.d_relative_k = d_relative_k.at(0);
    args.d_relative_q = d_relative_q.at(query * args.shape.q_stride);
    args.accumulate = block != nullptr;
    Mirror mirror(backend);
    tell(mirror, of);
    move(mirror, args);
    mirror.move(args.d_o), mirror.move(args.dq), mirror.move(args.dk), mirror.move(args.dv);
    mirror.move(args.d_distance_bias), mirror.move(args.d_relative_q), mirror.move(args.d_relative_k);
    backend.attention_backward(args);
    mirror.back();
  }
};

void expect_near(Array& got, Array& want, double tolerance, const char* name) {
  ASSERT_EQ(got.size(), want.size());
  for (int64_t i = 0; i < got.size(); ++i) {
    const double g = got.get(i), w = want.get(i);
    if (g == w) continue;
    ASSERT_NEAR(g, w, tolerance * (1 + std::fabs(w))) << name << " element " << i;
  }
}

/// The whole at once and in blocks that `cuts` make of both sides, the blocks in a shuffled order.
void expect_blocks_are_the_whole(const Setting& setting, const Backend& backend, DType dtype,
                                 const std::vector<int64_t>& cuts) {
  SCOPED_TRACE(setting.name + " " + backend.instruction_set + " " + name_of(dtype));
  Attending whole(setting, backend, dtype, dtype), parts(setting, backend, dtype, accumulation_of(dtype));
  whole.forward(nullptr);
  whole.backward(nullptr, whole);
  std::vector<Attending::Block> blocks;
  for (size_t q = 0; q + 1 < cuts.size(); ++q)
    for (size_t k = 0; k + 1 < cuts.size(); ++k)
      blocks.push_back({cuts[q], cuts[q + 1] - cuts[q], cuts[k], cuts[k + 1] - cuts[k]});
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(5));
  for (const Attending::Block& block : blocks) parts.forward(&block);
  for (const Attending::Block& block : blocks) parts.backward(&block, whole);
  const double tolerance = dtype == DType::f64   ? 1e-12
                           : dtype == DType::f32 ? 1e-5
                           : dtype == DType::f16 ? 0x1p-10
                                                 : 0x1p-7;
  expect_near(parts.o, whole.o, tolerance, "o");
  expect_near(parts.logsumexp, whole.logsumexp, std::min(tolerance, 1e-5), "logsumexp");
  expect_near(parts.dq, whole.dq, 2 * tolerance, "dq");
  expect_near(parts.dk, whole.dk, 2 * tolerance, "dk");
  expect_near(parts.dv, whole.dv, 2 * tolerance, "dv");
  expect_near(parts.d_table, whole.d_table, 4 * tolerance, "d_distance_bias");
  if (setting.shape.relative_distances == 0) return;
  expect_near(parts.d_relative_q, whole.d_relative_q, 2 * tolerance, "d_relative_q");
  expect_near(parts.d_relative_k, whole.d_relative_k, 4 * tolerance, "d_relative_k");
}

std::vector<Setting> settings(int64_t length) {
  std::vector<Setting> all;
  for (const bool causal : {true, false}) {
    const auto add = [&](const std::string& name, const std::function<void(Setting&)>& change) {
      Setting s;
      s.name = (causal ? "causal " : "full ") + name;
      s.shape = {.batch = 1, .queries = length, .keys = length, .heads = 4, .kv_heads = 2, .head_size = 12};
      s.shape.q_stride = s.shape.o_stride = 48 + 3, s.shape.kv_stride = 24 + 5;
      s.shape.scale = 0.3, s.shape.causal = causal;
      change(s);
      all.push_back(s);
    };
    const auto cut_documents = [&](Setting& s) {
      for (int64_t t = 0; t < length; ++t) s.documents.push_back(t < 5 ? 2 : t < length / 2 + 3 ? 4 : 7);
    };
    const auto lean = [](Setting& s) { s.slopes = {0.7f, 0.35f, 0.2f, 0.1f}; };
    add("plain", [](Setting&) {});
    add("window", [](Setting& s) { s.shape.window = 11; });
    add("alibi", lean);
    add("table", [&](Setting& s) { s.shape.bias_distances = length - 3; });
    add("relative", [&](Setting& s) { s.shape.relative_distances = length; });
    add("dropout", [](Setting& s) { s.dropout = 0.3; });
    add("documents", cut_documents);
    add("prefix", [&](Setting& s) { s.prefix_lengths = {static_cast<int32_t>(length / 2 + 1)}; });
    add("some heads", [](Setting& s) { s.dropout = 0.3, s.shape.first_head = 4, s.shape.all_heads = 12; });
    add("everything", [&](Setting& s) {
      cut_documents(s), lean(s);
      s.dropout = 0.2, s.shape.window = length / 3;
      s.shape.bias_distances = s.shape.relative_distances = length;
    });
  }
  return all;
}

TEST(AttentionBlocks, MergedAndAddedUpAreTheWhole) {
  // The longer one has blocks of a few rows and one of more than a tile.
  for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{0, 12, 24}, {0, 3, 6, 12, 19, 24}, {0, 4, 136, 150}})
    for (const Setting& setting : settings(cuts.back()))
      for (const Backend& backend : all_backends())
        for (const DType dtype : backend.dtypes) {
          expect_blocks_are_the_whole(setting, backend, dtype, cuts);
          if (HasFatalFailure()) return;
        }
}

/// A block that a query sees nothing of leaves what other blocks gave it, bit for bit.
TEST(AttentionBlocks, HiddenKeysChangeNothing) {
  const Setting setting = settings(40)[0];
  for (const Backend& backend : all_backends())
    for (const DType dtype : backend.dtypes) {
      Attending run(setting, backend, dtype, accumulation_of(dtype));
      const Attending::Block first{0, 20, 0, 20}, future{0, 20, 20, 20};
      run.forward(&first), run.backward(&first, run);
      const Attending before = run;
      run.forward(&future), run.backward(&future, run);
      EXPECT_TRUE(run.o.bytes == before.o.bytes && run.logsumexp.bytes == before.logsumexp.bytes &&
                  run.dq.bytes == before.dq.bytes && run.dk.bytes == before.dk.bytes && run.dv.bytes == before.dv.bytes)
          << backend.instruction_set << " " << name_of(dtype);
      Attending blind(setting, backend, dtype, accumulation_of(dtype));
      blind.forward(&future);
      for (int64_t i = 0; i < 20 * setting.shape.o_stride; ++i) ASSERT_EQ(blind.o.get(i), 0.0);
      EXPECT_EQ(blind.logsumexp.get(0), -std::numeric_limits<double>::infinity());
    }
}

}  // namespace
}  // namespace capstan::kernels::testing
