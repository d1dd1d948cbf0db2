// label: cpu
// Attention: every mask and bias, grouped heads, head sizes, dropout, decoding with a cache; documents never touch each
// other; a long context needs no T x T memory.
#include "kernels/attention.h"

#include "tests/kernels/kernel_case_attention.h"
#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

/// Document ids of `length` tokens cut at the given places, the same for each sample.
std::vector<double> documents(int64_t batch, int64_t length, const std::vector<int64_t>& cuts) {
  std::vector<double> ids;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < length; ++t) {
      ids.push_back(static_cast<double>(std::count_if(cuts.begin(), cuts.end(), [&](int64_t c) { return c <= t; })));
    }
  }
  return ids;
}

AttentionSetting self(std::string name, int64_t batch, int64_t length, int64_t heads, int64_t kv_heads, int64_t size) {
  return {.name = std::move(name),
          .batch = batch,
          .queries = length,
          .keys = length,
          .heads = heads,
          .kv_heads = kv_heads,
          .head_size = size};
}

void add_masks(std::vector<AttentionSetting>& all) {
  for (const bool causal : {true, false}) {
    const std::string kind = causal ? "causal_" : "full_";
    const auto add = [&](const std::string& name, int64_t length, auto change) {
      AttentionSetting s = self(kind + name, 2, length, 2, 2, 8);
      s.causal = causal;
      change(s);
      all.push_back(s);
    };
    add("plain", 17, [](auto&) {});
    add("window", 33, [](auto& s) { s.window = 5; });
    add("window_of_one", 9, [](auto& s) { s.window = 1; });
    add("alibi", 21, [](auto& s) { s.alibi = true; });
    add("table", 21, [](auto& s) { s.table = 21; });
    add("short_table", 27, [](auto& s) { s.table = 5, s.kv_heads = 1; });
    add("relative", 22, [](auto& s) { s.relative = 22; });
    add("short_relative", 26, [](auto& s) { s.relative = 6, s.kv_heads = 1, s.head_size = 5; });
    add("dropout", 19, [](auto& s) { s.dropout = 0.3; });
    add("gap", 13, [](auto& s) { s.gap = 24; });
    add("documents", 37, [](auto& s) { s.query_documents = s.key_documents = documents(2, 37, {5, 6, 20}); });
    add("everything", 70, [](auto& s) {
      s.query_documents = s.key_documents = documents(2, 70, {3, 35, 64});
      s.window = 11, s.alibi = true, s.dropout = 0.2, s.gap = 3, s.heads = 4;
    });
  }
  AttentionSetting distances = self("distances_over_blocks", 1, 140, 2, 1, 8);
  distances.query_documents = distances.key_documents = documents(1, 140, {133});
  distances.table = 90, distances.relative = 140, distances.alibi = true, distances.gap = 4;
  all.push_back(distances);
  distances.name = "distances_and_dropout";
  distances.dropout = 0.25, distances.window = 70;
  all.push_back(distances);
  AttentionSetting prefix = self("prefix", 2, 23, 2, 1, 8);
  prefix.prefix_lengths = {7, 0};
  all.push_back(prefix);
  prefix.name = "prefix_window";
  prefix.prefix_lengths = {23, 4};
  prefix.window = 6;
  all.push_back(prefix);
  prefix.name = "prefix_distances";
  prefix.window = 0, prefix.table = prefix.relative = 23;
  all.push_back(prefix);
}

void add_sizes(std::vector<AttentionSetting>& all) {
  for (const int64_t size : {1, 3, 8, 16, 64, 80, 128}) {
    all.push_back(self("head_size_" + std::to_string(size), 1, 20, 2, 1, size));
  }
  for (const int64_t length : {1, 2, 3, 63, 64, 65, 257}) {
    all.push_back(self("length_" + std::to_string(length), 1, length, 3, 1, 4));
  }
  all.push_back(self("grouped", 2, 12, 6, 2, 8));
  all.push_back(self("multi_query", 3, 11, 4, 1, 5));
}

void add_offsets(std::vector<AttentionSetting>& all) {
  AttentionSetting decode = self("decode", 3, 40, 4, 2, 8);
  decode.queries = 1;
  decode.key_lengths = {1, 17, 40};
  decode.with_logsumexp = false;
  all.push_back(decode);
  decode.name = "decode_window_alibi";
  decode.window = 9;
  decode.alibi = true;
  all.push_back(decode);
  decode.name = "decode_distances";
  decode.window = 0;
  decode.table = 40, decode.relative = 33;
  all.push_back(decode);
  AttentionSetting chunk = self("prefill_chunk", 2, 50, 2, 1, 8);
  chunk.queries = 7;
  chunk.key_lengths = {7, 31};
  all.push_back(chunk);
  chunk.name = "prefill_chunk_distances";
  chunk.table = chunk.relative = 40;
  all.push_back(chunk);
  AttentionSetting cross = self("cross", 2, 29, 2, 2, 8);
  cross.queries = 10;
  cross.causal = false;
  all.push_back(cross);
  AttentionSetting blind = self("queries_that_see_nothing", 1, 12, 2, 2, 4);
  blind.query_documents = documents(1, 12, {3, 6});
  blind.key_documents = documents(1, 12, {6});
  all.push_back(blind);
  blind.name = "fewer_keys_than_queries";
  blind.query_documents = blind.key_documents = {};
  blind.key_lengths = {5};
  all.push_back(blind);
}

std::vector<KernelCase> attention_cases() {
  std::vector<AttentionSetting> all;
  add_masks(all);
  add_sizes(all);
  add_offsets(all);
  std::vector<KernelCase> cases;
  for (const AttentionSetting& s : all) cases.push_back(attention_case(s));
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Attention, KernelSuite, all_of(attention_cases()));

/// Replaces the rows of tokens [from, to) of one sample.
void overwrite(std::vector<double>& values, int64_t stride, int64_t from, int64_t to, double value) {
  for (int64_t i = from * stride; i < to * stride; ++i) {
    values[static_cast<size_t>(i)] = std::isnan(value) ? value : value * values[static_cast<size_t>(i)] + 3.0;
  }
}

/// Forward and backward bits of all rows outside tokens [from, to).
std::vector<uint8_t> bits_outside(const AttentionSetting& s, const Backend& backend, DType dtype, Values values,
                                  int64_t from, int64_t to, double replacement) {
  if (replacement != 1.0) {
    for (const char* name : {"q", "k", "v", "d_o"})
      overwrite(values[name], s.heads * s.head_size, from, to, replacement);
  }
  const Stage forward = attention_forward(s), backward = attention_backward(s);
  RunResult results = run_stage(forward, backend, dtype, values);
  values.merge(Values(results.values));
  results.bytes.merge(run_stage(backward, backend, dtype, values).bytes);
  std::vector<uint8_t> bits;
  for (const char* name : {"o", "d_q", "d_k", "d_v"}) {
    const std::vector<uint8_t>& bytes = results.bytes.at(name);
    const auto row = static_cast<std::ptrdiff_t>(s.heads * s.head_size) * static_cast<std::ptrdiff_t>(bytes_of(dtype));
    bits.insert(bits.end(), bytes.begin(), bytes.begin() + from * row);
    bits.insert(bits.end(), bytes.begin() + to * row, bytes.end());
  }
  return bits;
}

TEST(AttentionDocuments, ContentsOfOneNeverChangeABitOfAnother) {
  for (const bool causal : {true, false}) {
    for (const int64_t length : {37, 150}) {
      AttentionSetting s = self("documents", 1, length, 2, 2, 16);
      s.causal = causal;
      s.query_documents = s.key_documents = documents(1, length, {11, length / 2, length - 3});
      Values values;
      for (const Stage& stage : {attention_forward(s), attention_backward(s)}) values.merge(inputs_of(stage));
      const std::pair<int64_t, int64_t> spans[] = {
          {0, 11}, {11, length / 2}, {length / 2, length - 3}, {length - 3, length}};
      for (const Backend& backend : all_backends()) {
        for (const DType dtype : backend.dtypes) {
          for (const auto& [from, to] : spans) {
            SCOPED_TRACE(backend.instruction_set + " " + name_of(dtype) + " from " + std::to_string(from));
            const auto before = bits_outside(s, backend, dtype, values, from, to, 1.0);
            EXPECT_TRUE(bits_outside(s, backend, dtype, values, from, to, -40.0) == before) << "other contents";
            EXPECT_TRUE(bits_outside(s, backend, dtype, values, from, to, std::nan("")) == before) << "NaN contents";
          }
        }
      }
    }
  }
}

TEST(AttentionDropout, SplittingTheBatchKeepsTheMask) {
  AttentionSetting s = self("dropout", 2, 19, 2, 1, 8);
  s.dropout = 0.4;
  const Stage whole = attention_forward(s);
  const Values values = inputs_of(whole);
  for (const Backend& backend : all_backends()) {
    const RunResult want = run_stage(whole, backend, DType::f32, values);
    AttentionSetting one = s;
    one.batch = 1;
    Stage half = attention_forward(one);
    const uint64_t second = kAttentionSample + 1;
    half.run = [&](const Call& c) {
      Dropout dropout = attention_dropout(one);
      dropout.first_sample = &second;
      c.backend.attention({one.shape(c.dtype),
                           {},
                           dropout,
                           c.at.at("q"),
                           c.at.at("k"),
                           c.at.at("v"),
                           c.at.at("o"),
                           c.at.at("logsumexp"),
                           c.scratch});
    };
    Values tail = values;
    for (const char* name : {"q", "k", "v"})
      tail[name].erase(tail[name].begin(), tail[name].begin() + static_cast<std::ptrdiff_t>(tail[name].size() / 2));
    const std::vector<uint8_t> got = run_stage(half, backend, DType::f32, tail).bytes.at("o");
    const std::vector<uint8_t>& all = want.bytes.at("o");
    EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin() + static_cast<std::ptrdiff_t>(got.size())))
        << backend.instruction_set;
  }
}

/// Heads 2 and 3 of four, called alone, drop what they drop among all.
TEST(AttentionDropout, SplittingTheHeadsKeepsTheMask) {
  AttentionSetting s = self("dropout", 2, 19, 4, 2, 8);
  s.dropout = 0.4;
  const Stage whole = attention_forward(s);
  const Values values = inputs_of(whole);
  for (const Backend& backend : all_backends()) {
    const std::vector<double> want = run_stage(whole, backend, DType::f32, values).values.at("o");
    Stage part = whole;
    part.run = [&](const Call& c) {
      AttentionShape shape = s.shape(c.dtype);
      shape.heads = 2, shape.kv_heads = 1, shape.first_head = 2, shape.all_heads = 4;
      const auto from = [&](const char* name, int64_t head) {
        return static_cast<char*>(c.at.at(name)) + static_cast<size_t>(head * s.head_size) * bytes_of(c.dtype);
      };
      c.backend.attention({shape,
                           {},
                           attention_dropout(s),
                           from("q", 2),
                           from("k", 1),
                           from("v", 1),
                           from("o", 2),
                           c.at.at("logsumexp"),
                           c.scratch});
    };
    const std::vector<double> got = run_stage(part, backend, DType::f32, values).values.at("o");
    for (size_t i = 0; i < got.size(); ++i) {
      const size_t head = i % 32 / 8;
      if (head >= 2) EXPECT_NEAR(got[i], want[i], 1e-6) << backend.instruction_set << " at " << i;
    }
  }
}

TEST(AttentionLongContext, ScratchGrowsWithTheLengthOnly) {
  const AttentionSetting s = self("long", 1, 32768, 1, 1, 16);
  const size_t matrix = size_t{32768} * 32768 * sizeof(float);
  for (const Backend& backend : all_backends()) {
    for (const DType dtype : backend.dtypes) {
      EXPECT_LT(backend.attention_scratch(s.shape(dtype)), matrix / 256) << backend.instruction_set;
      EXPECT_LT(backend.attention_backward_scratch(s.shape(dtype)), matrix / 256) << backend.instruction_set;
    }
  }
}

/// dq of query i by the formula of the contract; of the last key, which only the last query sees, dk and dv too.
void check_long_gradient(const AttentionSetting& s, const Values& all, const Values& gradients, int64_t i) {
  double logsumexp = 0;
  const std::vector<double> w = weights_row(s, all, 0, 0, i, logsumexp);
  const auto row = [&](const char* name, int64_t t, int64_t d) {
    return all.at(name)[static_cast<size_t>(t * 16 + d)];
  };
  const auto inner = [&](const char* name, int64_t t) {
    double sum = 0;
    for (int64_t d = 0; d < 16; ++d) sum += row("d_o", i, d) * row(name, t, d);
    return sum;
  };
  const auto got = [&](const char* name, int64_t d) { return gradients.at(name)[static_cast<size_t>(i * 16 + d)]; };
  std::vector<double> dscore;
  for (int64_t j = 0; j <= i; ++j) {
    dscore.push_back(w[static_cast<size_t>(j)] * (inner("v", j) - inner("o", i)) * s.scale());
  }
  for (int64_t d = 0; d < 16; ++d) {
    double want = 0;
    for (int64_t j = 0; j <= i; ++j) want += dscore[static_cast<size_t>(j)] * row("k", j, d);
    EXPECT_NEAR(got("d_q", d), want, 1e-5) << "query " << i;
    if (i != s.queries - 1) continue;
    EXPECT_NEAR(got("d_k", d), dscore.back() * row("q", i, d), 1e-5);
    EXPECT_NEAR(got("d_v", d), w[static_cast<size_t>(i)] * row("d_o", i, d), 1e-5);
  }
}

TEST(AttentionLongContext, RowsOfAContextOf32768AreRight) {
  const AttentionSetting s = self("long", 1, 32768, 1, 1, 16);
  const Stage forward = attention_forward(s);
  const Values values = rounded_inputs(forward, inputs_of(forward), DType::f32);
  const Backend backend = cpu_backends().back();
  const Values got = run_stage(forward, backend, DType::f32, values).values;
  for (const int64_t i : {0, 1, 511, 12345, 32767}) {
    double logsumexp = 0;
    const std::vector<double> w = weights_row(s, values, 0, 0, i, logsumexp);
    EXPECT_NEAR(got.at("logsumexp")[static_cast<size_t>(i)], logsumexp, 1e-4);
    for (int64_t d = 0; d < s.head_size; ++d) {
      double want = 0;
      for (int64_t j = 0; j <= i; ++j)
        want += w[static_cast<size_t>(j)] * values.at("v")[static_cast<size_t>(j * 16 + d)];
      EXPECT_NEAR(got.at("o")[static_cast<size_t>(i * 16 + d)], want, 1e-5) << "query " << i;
    }
  }
  Values all = values;
  all.merge(Values(got));
  const Stage backward = attention_backward(s);
  all["d_o"] = rounded(inputs_of(backward).at("d_o"), DType::f32);
  const Values gradients = run_stage(backward, backend, DType::f32, all).values;
  for (const int64_t i : {1, 511, 12345, 32767}) check_long_gradient(s, all, gradients, i);
}

}  // namespace
}  // namespace capstan::kernels::testing
