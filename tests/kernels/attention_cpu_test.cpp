// label: cpu
// The cpu backend's attention where its tiles, threads and its decoding meet: random shapes and masks over several
// tiles against the reference, the same bits again, any number of threads, nothing outside outputs and scratch, no
// allocation that grows, ranks as threads.
#include "kernels/attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernels/kernel_backends.h"

namespace capstan::kernels::testing {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xA5;
const uint64_t kKey = 77, kSample = 3;

struct Problem {
  AttentionShape shape;
  std::vector<int32_t> query_documents, key_documents, key_lengths, prefix_lengths;
  std::vector<float> slopes;
  double dropout = 0.0;
  std::string text;

  AttentionMask mask() const {
    const auto at = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    return {at(query_documents), at(key_documents), at(key_lengths), at(prefix_lengths), at(slopes)};
  }
  Dropout drop() const {
    return dropout == 0.0 ? Dropout{}
                          : Dropout{.probability = dropout, .stream = 9, .key = &kKey, .first_sample = &kSample};
  }
  size_t q_count() const { return static_cast<size_t>(shape.batch * shape.queries * shape.q_stride); }
  size_t kv_count() const { return static_cast<size_t>(shape.batch * shape.keys * shape.kv_stride); }
  size_t table_count() const { return static_cast<size_t>(shape.bias_distances * shape.heads); }
  size_t relative_count() const {
    return static_cast<size_t>(shape.relative_distances * shape.heads * shape.head_size);
  }
  size_t row_count() const { return static_cast<size_t>(shape.batch * shape.heads * shape.queries); }
};

/// Elements of one dtype; what no kernel may touch stays at the guard byte.
struct Array {
  DType dtype;
  std::vector<unsigned char> bytes;
  Array(DType type, size_t count) : dtype(type), bytes(count * bytes_of(type), kGuardByte) {}
  void randomize(uint32_t seed) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < size(); ++i) set(i, static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f);
  }
  size_t size() const { return bytes.size() / bytes_of(dtype); }
  void set(size_t i, float x) {
    if (dtype == DType::f32)
      reinterpret_cast<float*>(bytes.data())[i] = x;
    else
      reinterpret_cast<BFloat16*>(bytes.data())[i] = BFloat16(x);
  }
  float get(size_t i) const {
    return dtype == DType::f32 ? reinterpret_cast<const float*>(bytes.data())[i]
                               : static_cast<float>(reinterpret_cast<const BFloat16*>(bytes.data())[i]);
  }
};

/// A kernel's scratch with a guard behind it.
struct Scratch {
  std::vector<unsigned char> bytes;
  size_t used;
  explicit Scratch(size_t size) : bytes(size + kGuard + 64, kGuardByte), used(size) {}
  void* data() { return bytes.data() + offset(); }
  size_t offset() const { return (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64; }
  bool guarded() const {
    return std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(offset() + used), bytes.end(),
                       [](unsigned char c) { return c == kGuardByte; });
  }
};

struct Results {
  Array o, logsumexp, dq, dk, dv;
  Array d_table{DType::f32, 0}, d_relative_q{DType::f32, 0}, d_relative_k{DType::f32, 0};
  bool operator==(const Results& other) const {
    return o.bytes == other.o.bytes && logsumexp.bytes == other.logsumexp.bytes && dq.bytes == other.dq.bytes &&
           dk.bytes == other.dk.bytes && dv.bytes == other.dv.bytes && d_table.bytes == other.d_table.bytes &&
           d_relative_q.bytes == other.d_relative_q.bytes && d_relative_k.bytes == other.d_relative_k.bytes;
  }
};

/// Forward and backward. `forward_of`: its o and logsumexp enter the backward, so that both see the same.
Results run(const Problem& p, const Backend& backend, DType dtype, const Results* forward_of = nullptr) {
  AttentionShape s = p.shape;
  s.dtype = dtype;
  Array q(dtype, p.q_count()), k(dtype, p.kv_count()), v(dtype, p.kv_count()), d_o(dtype, p.q_count());
  q.randomize(1), k.randomize(2), v.randomize(3), d_o.randomize(4);
  Array table(dtype, p.table_count()), relative_q(dtype, p.relative_count() > 0 ? p.q_count() : 0),
      relative_k(dtype, p.relative_count());
  table.randomize(5), relative_q.randomize(6), relative_k.randomize(7);
  AttentionMask mask = p.mask();
  mask.distance_bias = table.bytes.data(), mask.relative_q = relative_q.bytes.data(),
  mask.relative_k = relative_k.bytes.data();
  Results r{Array(dtype, p.q_count()),       Array(DType::f32, p.row_count()), Array(dtype, p.q_count()),
            Array(dtype, p.kv_count()),      Array(dtype, p.kv_count()),       Array(dtype, table.size()),
            Array(dtype, relative_q.size()), Array(dtype, relative_k.size())};
  Scratch scratch(backend.attention_scratch(s));
  backend.attention({s, mask, p.drop(), q.bytes.data(), k.bytes.data(), v.bytes.data(), r.o.bytes.data(),
                     r.logsumexp.bytes.data(), scratch.data()});
  EXPECT_TRUE(scratch.guarded()) << "forward scratch overrun";
  const Results& f = forward_of ? *forward_of : r;
  Scratch backward(backend.attention_backward_scratch(s));
  backend.attention_backward({s, mask, p.drop(), q.bytes.data(), k.bytes.data(), v.bytes.data(), f.o.bytes.data(),
                              f.logsumexp.bytes.data(), d_o.bytes.data(), r.dq.bytes.data(), r.dk.bytes.data(),
                              r.dv.bytes.data(), backward.data(), false, r.d_table.bytes.data(),
                              r.d_relative_q.bytes.data(), r.d_relative_k.bytes.data()});
  EXPECT_TRUE(backward.guarded()) << "backward scratch overrun";
  return r;
}

void expect_near(const Array& got, const Array& want, double tolerance, const char* name) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double g = got.get(i), w = want.get(i);
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;
    ASSERT_NEAR(g, w, tolerance * (1 + std::fabs(w))) << name << " element " << i;
  }
}

void expect_near(const Results& got, const Results& want, DType dtype) {
  const double tolerance = dtype == DType::bf16 ? 0x1p-7 : 3e-5;
  expect_near(got.o, want.o, tolerance, "o");
  expect_near(got.logsumexp, want.logsumexp, 1e-5, "logsumexp");
  expect_near(got.dq, want.dq, tolerance, "dq");
  expect_near(got.dk, want.dk, tolerance, "dk");
  expect_near(got.dv, want.dv, tolerance, "dv");
  expect_near(got.d_table, want.d_table, 4 * tolerance, "d_distance_bias");
  expect_near(got.d_relative_q, want.d_relative_q, 2 * tolerance, "d_relative_q");
  expect_near(got.d_relative_k, want.d_relative_k, 4 * tolerance, "d_relative_k");
}

Problem plain(int64_t batch, int64_t length, int64_t heads, int64_t kv_heads, int64_t size) {
  Problem p;
  p.shape = {
      .batch = batch, .queries = length, .keys = length, .heads = heads, .kv_heads = kv_heads, .head_size = size};
  p.shape.q_stride = p.shape.o_stride = heads * size;
  p.shape.kv_stride = kv_heads * size;
  p.shape.scale = 1.0 / std::sqrt(static_cast<double>(size));
  p.text = "plain";
  return p;
}

/// A random shape and mask; sequences span several tiles.
Problem random_problem(uint32_t seed) {
  std::mt19937 random(seed);
  const auto pick = [&](std::initializer_list<int64_t> values) { return values.begin()[random() % values.size()]; };
  const int64_t kv_heads = pick({1, 2}), group = pick({1, 1, 3, 5});
  Problem p = plain(pick({1, 2}), pick({70, 129, 200, 260}), kv_heads * group, kv_heads, pick({5, 16, 40, 64, 80}));
  AttentionShape& s = p.shape;
  s.causal = random() % 3 != 0;
  if (random() % 3 == 0) s.window = pick({1, 7, 64, 100});
  if (random() % 3 == 0) s.queries = pick({1, 3, 5, 66, 129});
  s.kv_stride += pick({0, 3}), s.q_stride += pick({0, 6}), s.o_stride = s.q_stride;
  if (random() % 3 == 0) p.dropout = 0.3;
  for (int64_t h = 0; h < s.heads && seed % 3 == 0; ++h) p.slopes.push_back(std::ldexp(0.5f, -static_cast<int>(h)));
  for (int64_t b = 0; b < s.batch && seed % 4 == 1; ++b)
    p.key_lengths.push_back(static_cast<int32_t>(1 + random() % s.keys));
  for (int64_t b = 0; b < s.batch && seed % 5 == 2; ++b)
    p.prefix_lengths.push_back(static_cast<int32_t>(random() % s.keys));
  const bool documents = seed % 2 == 0;
  for (int64_t b = 0; b < s.batch && documents; ++b) {
    std::vector<int32_t> ids;
    for (int64_t j = 0, id = 2; j < s.keys; ++j) ids.push_back(static_cast<int32_t>(id += random() % 40 == 0));
    p.key_documents.insert(p.key_documents.end(), ids.begin(), ids.end());
    const int64_t length = p.key_lengths.empty() ? s.keys : p.key_lengths[static_cast<size_t>(b)];
    for (int64_t i = 0; i < s.queries; ++i)
      p.query_documents.push_back(ids[static_cast<size_t>(std::clamp<int64_t>(i + length - s.queries, 0, s.keys - 1))]);
  }
  if (seed % 3 == 1) s.bias_distances = seed % 2 ? s.keys : s.keys / 3;
  if (seed % 5 < 2) s.relative_distances = seed % 2 ? s.keys / 2 : s.keys;
  p.text = "seed " + std::to_string(seed) + ": batch " + std::to_string(s.batch) + " queries " +
           std::to_string(s.queries) + " keys " + std::to_string(s.keys) + " heads " + std::to_string(s.heads) + "/" +
           std::to_string(s.kv_heads) + " size " + std::to_string(s.head_size) + " causal " + std::to_string(s.causal) +
           " window " + std::to_string(s.window) + " table " + std::to_string(s.bias_distances) + " relative " +
           std::to_string(s.relative_distances) + " dropout " + std::to_string(p.dropout);
  return p;
}

class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

TEST(AttentionCpu, RandomMasksOverSeveralTilesEqualTheReference) {
  const std::vector<Backend> backends = cpu_backends();
  for (uint32_t seed = 0; seed < 24; ++seed) {
    const Problem p = random_problem(seed);
    SCOPED_TRACE(p.text);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Results want = run(p, reference_backend(), dtype);
      for (const Backend& backend : backends) {
        SCOPED_TRACE(backend.instruction_set + " " + name_of(dtype));
        const Threads threads(static_cast<int>(1 + seed % 3));
        expect_near(run(p, backend, dtype, &want), want, dtype);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(AttentionCpu, RunTwiceGivesTheSameBits) {
  for (const Backend& backend : cpu_backends()) {
    for (const uint32_t seed : {2u, 5u, 9u, 12u}) {
      const Problem p = random_problem(seed);
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Threads threads(2);
        EXPECT_TRUE(run(p, backend, dtype) == run(p, backend, dtype)) << backend.instruction_set << " " << p.text;
      }
    }
  }
}

TEST(AttentionCpu, ThreadsChangeTheBackwardByRoundingOnlyAndTheForwardNotAtAll) {
  const Backend backend = cpu_backends().back();
  for (Problem p : {plain(1, 300, 1, 1, 32), plain(1, 200, 4, 1, 64), plain(3, 140, 1, 1, 16), random_problem(6),
                    random_problem(10)}) {
    Results one = [&] {
      const Threads threads(1);
      return run(p, backend, DType::f32);
    }();
    for (const int count : {2, 3, 7}) {
      const Threads threads(count);
      const Results many = run(p, backend, DType::f32);
      EXPECT_TRUE(many.o.bytes == one.o.bytes && many.logsumexp.bytes == one.logsumexp.bytes) << count << " threads";
      expect_near(many, one, DType::f32);
    }
  }
}

TEST(AttentionCpu, OneSequenceOfOneHeadIsSharedByAllThreads) {
  // More scratch with two threads means that the work of a single head was cut.
  const Backend backend = cpu_backends().back();
  const Problem p = plain(1, 1024, 1, 1, 64);
  size_t bytes[2];
  for (const int count : {1, 2}) {
    const Threads threads(count);
    bytes[count - 1] = backend.attention_backward_scratch(p.shape);
  }
  EXPECT_GT(bytes[1], bytes[0] + p.q_count() * sizeof(float) / 2);
}

TEST(AttentionCpu, DecodingEqualsTheLastRowsOfTheWhole) {
  for (const Backend& backend : cpu_backends()) {
    for (const int64_t kv_heads : {1, 6}) {
      Problem whole = plain(2, 700, 6, kv_heads, 40);
      whole.slopes = {0.5f, 0.25f, 0.125f, 0.0625f, 0.03f, 0.01f};
      const Results want = run(whole, backend, DType::f32);
      for (const int64_t queries : {1, 2, 4}) {
        AttentionShape s = whole.shape;
        s.queries = queries;
        Array q(DType::f32, whole.q_count()), k(DType::f32, whole.kv_count()), v(DType::f32, whole.kv_count());
        q.randomize(1), k.randomize(2), v.randomize(3);
        std::vector<float> tail, o(static_cast<size_t>(s.batch * queries * s.o_stride));
        for (int64_t b = 0; b < s.batch; ++b)
          for (int64_t i = 700 - queries; i < 700; ++i)
            for (int64_t d = 0; d < s.q_stride; ++d)
              tail.push_back(q.get(static_cast<size_t>((b * 700 + i) * s.q_stride + d)));
        const Threads threads(3);
        Scratch scratch(backend.attention_scratch(s));
        backend.attention(
            {s, whole.mask(), {}, tail.data(), k.bytes.data(), v.bytes.data(), o.data(), nullptr, scratch.data()});
        EXPECT_TRUE(scratch.guarded());
        for (int64_t b = 0; b < s.batch; ++b)
          for (int64_t e = 0; e < queries * s.o_stride; ++e)
            ASSERT_NEAR(o[static_cast<size_t>(b * queries * s.o_stride + e)],
                        want.o.get(static_cast<size_t>((b * 700 + 700 - queries) * s.o_stride + e)), 2e-5)
                << backend.instruction_set << " queries " << queries << " kv heads " << kv_heads;
      }
    }
  }
}

TEST(AttentionCpu, NaNInAnotherDocumentNeverArrives) {
  for (const Backend& backend : cpu_backends()) {
    Problem p = plain(1, 150, 2, 1, 24);
    for (int64_t i = 0; i < 150; ++i) p.key_documents.push_back(i < 71 ? 1 : i < 75 ? 2 : 3);
    p.query_documents = p.key_documents;
    const AttentionShape s = p.shape;
    Array q(DType::f32, p.q_count()), k(DType::f32, p.kv_count()), v(DType::f32, p.kv_count()),
        d_o(DType::f32, p.q_count());
    q.randomize(1), k.randomize(2), v.randomize(3), d_o.randomize(4);
    for (size_t i = 71; i < 75; ++i) {
      for (size_t d = 0; d < 48; ++d) q.set(i * 48 + d, std::nanf("")), d_o.set(i * 48 + d, std::nanf(""));
      for (size_t d = 0; d < 24; ++d)
        k.set(i * 24 + d, std::nanf("")), v.set(i * 24 + d, std::numeric_limits<float>::infinity());
    }
    Results r{Array(DType::f32, p.q_count()), Array(DType::f32, p.row_count()), Array(DType::f32, p.q_count()),
              Array(DType::f32, p.kv_count()), Array(DType::f32, p.kv_count())};
    Scratch scratch(std::max(backend.attention_scratch(s), backend.attention_backward_scratch(s)));
    backend.attention({s,
                       p.mask(),
                       {},
                       q.bytes.data(),
                       k.bytes.data(),
                       v.bytes.data(),
                       r.o.bytes.data(),
                       r.logsumexp.bytes.data(),
                       scratch.data()});
    backend.attention_backward({s,
                                p.mask(),
                                {},
                                q.bytes.data(),
                                k.bytes.data(),
                                v.bytes.data(),
                                r.o.bytes.data(),
                                r.logsumexp.bytes.data(),
                                d_o.bytes.data(),
                                r.dq.bytes.data(),
                                r.dk.bytes.data(),
                                r.dv.bytes.data(),
                                scratch.data()});
    const Results clean = run(p, backend, DType::f32);
    for (size_t i = 0; i < 150; ++i) {
      if (i >= 71 && i < 75) continue;
      for (size_t d = 0; d < 48; ++d) {
        ASSERT_EQ(r.o.get(i * 48 + d), clean.o.get(i * 48 + d)) << i;
        ASSERT_EQ(r.dq.get(i * 48 + d), clean.dq.get(i * 48 + d)) << i;
      }
      for (size_t d = 0; d < 24; ++d) {
        ASSERT_EQ(r.dk.get(i * 24 + d), clean.dk.get(i * 24 + d)) << i;
        ASSERT_EQ(r.dv.get(i * 24 + d), clean.dv.get(i * 24 + d)) << i;
      }
    }
    EXPECT_TRUE(std::isnan(r.dk.get(72 * 24))) << "the poison was not there";
  }
}

TEST(AttentionCpu, ScratchOfALongContextIsAFewRowsPerToken) {
  const Backend backend = cpu_backends().back();
  const AttentionShape s = plain(1, 32768, 1, 1, 64).shape;
  for (const int count : {1, 2, 8}) {
    const Threads threads(count);
    const size_t row = 64 * sizeof(float) * 32768;
    EXPECT_LT(backend.attention_scratch(s), row) << count;
    EXPECT_LT(backend.attention_backward_scratch(s), (static_cast<size_t>(count) + 1) * row) << count;
  }
}

TEST(AttentionCpu, RanksAsThreadsDoNotDisturbEachOther) {
  const Backend backend = cpu_backends().back();
  const Problem p = random_problem(6);
  const auto with_two = [&] {
    const Threads threads(2);
    return run(p, backend, DType::f32);
  };
  const Results want = with_two();
  std::atomic<int> wrong{0};
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&] {
      for (int i = 0; i < 5; ++i)
        if (!(with_two() == want)) ++wrong;
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace capstan::kernels::testing
