#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {
namespace {

template <typename T>
Accumulation<T> dot(const T* a, const T* b, int64_t n) {
  Accumulation<T> sum = 0;
  for (int64_t d = 0; d < n; ++d) sum += load(a[d]) * load(b[d]);
  return sum;
}

/// What one (batch, head) sees: mask, bias and dropout of query i and key j by the rules of the contract header.
struct HeadView {
  const AttentionShape& shape;
  const AttentionMask& mask;
  const Dropout& dropout;
  int64_t batch, head, key_length;

  HeadView(const AttentionShape& s, const AttentionMask& m, const Dropout& d, int64_t b, int64_t h)
      : shape(s), mask(m), dropout(d), batch(b), head(h), key_length(m.key_lengths ? m.key_lengths[b] : s.keys) {}

  int64_t place(int64_t i) const { return i + shape.offset(key_length); }

  bool visible(int64_t i, int64_t j) const {
    const int64_t p = place(i);
    if (shape.causal && j > p && !(mask.prefix_lengths && j + shape.first_key < mask.prefix_lengths[batch]))
      return false;
    if (shape.window > 0 && p - j >= shape.window) return false;
    if (shape.window > 0 && !shape.causal && j - p >= shape.window) return false;
    return !mask.query_documents ||
           mask.query_documents[batch * shape.queries + i] == mask.key_documents[batch * shape.keys + j];
  }

  /// The row of `distances` that stands for the distance from key j to query i.
  int64_t distance(int64_t i, int64_t j, int64_t distances) const {
    return std::clamp<int64_t>(place(i) - j, 0, distances - 1);
  }
  int64_t relative_key_at(int64_t i, int64_t j) const {
    return (distance(i, j, shape.relative_distances) * shape.heads + head) * shape.head_size;
  }
  int64_t table_at(int64_t i, int64_t j) const { return distance(i, j, shape.bias_distances) * shape.heads + head; }

  template <typename T, typename A>
  A bias(int64_t i, int64_t j) const {
    A sum = 0;
    if (mask.alibi_slopes) {
      const int64_t from = place(i) - j;
      sum -= A(mask.alibi_slopes[head]) * A(shape.causal ? from : std::abs(from));
    }
    if (shape.bias_distances > 0) sum += load(in<T>(mask.distance_bias)[table_at(i, j)]);
    if (shape.relative_distances > 0)
      sum += A(shape.scale) *
             dot(in<T>(mask.relative_q) + query_at(i), in<T>(mask.relative_k) + relative_key_at(i, j), shape.head_size);
    return sum;
  }

  /// 0 where dropped, else 1 / (1 - p); 1 without dropout.
  template <typename A>
  A keep(int64_t i, int64_t j) const {
    if (dropout.probability == 0.0) return A(1);
    const uint64_t sample = dropout.sample() + static_cast<uint64_t>(batch);
    const uint64_t row = shape.first_dropout_row(sample, head) + static_cast<uint64_t>(i);
    const uint64_t index = row * shape.dropout_columns() + static_cast<uint64_t>(shape.first_key + j);
    const bool kept = philox_word(*dropout.key, dropout.stream, index) >= drop_threshold(dropout.probability);
    return kept ? A(1.0 / (1.0 - dropout.probability)) : A(0);
  }

  // First element of this head in the rows of query i and key j.
  int64_t query_at(int64_t i) const { return (batch * shape.queries + i) * shape.q_stride + head * shape.head_size; }
  int64_t output_at(int64_t i) const { return (batch * shape.queries + i) * shape.o_stride + head * shape.head_size; }
  int64_t key_at(int64_t j) const {
    return (batch * shape.keys + j) * shape.kv_stride + head / (shape.heads / shape.kv_heads) * shape.head_size;
  }
  int64_t statistic_at(int64_t i) const { return shape.statistic(batch, head) + i; }
};

/// Adds the result over these keys (sum of output / sum, with its logsumexp) to that over others.
template <typename A>
void merge_row(const A* output, A sum, A logsumexp, int64_t size, A* o, A& total) {
  if (sum == A(0)) return;
  const A top = std::max(total, logsumexp), before = std::exp(total - top), now = std::exp(logsumexp - top);
  for (int64_t d = 0; d < size; ++d) o[d] = (o[d] * before + output[d] / sum * now) / (before + now);
  total = top + std::log(before + now);
}

/// One query: scores [keys] and output [head_size] are scratch rows. Keys that are not visible are never read.
template <typename T, typename A>
void attend(const AttentionArgs& args, const HeadView& view, int64_t i, A* scores, A* output) {
  const int64_t size = args.shape.head_size;
  const T* q = in<T>(args.q) + view.query_at(i);
  A highest = -std::numeric_limits<A>::infinity(), sum = 0;
  for (int64_t j = 0; j < view.key_length; ++j) {
    if (!view.visible(i, j)) continue;
    const T* k = in<T>(args.k) + view.key_at(j);
    scores[j] = A(args.shape.scale) * dot(q, k, size) + view.template bias<T, A>(i, j);
    highest = std::max(highest, scores[j]);
  }
  std::fill_n(output, size, A(0));
  for (int64_t j = 0; j < view.key_length; ++j) {
    if (!view.visible(i, j)) continue;
    const A weight = std::exp(scores[j] - highest);
    sum += weight;
    const A kept = weight * view.template keep<A>(i, j);
    const T* v = in<T>(args.v) + view.key_at(j);
    for (int64_t d = 0; d < size; ++d) output[d] += kept * load(v[d]);
  }
  const A logsumexp = highest + std::log(sum);
  if (args.merge)
    return merge_row(output, sum, logsumexp, size, out<A>(args.o) + view.output_at(i),
                     out<A>(args.logsumexp)[view.statistic_at(i)]);
  T* o = out<T>(args.o) + view.output_at(i);
  for (int64_t d = 0; d < size; ++d) store(o[d], sum == A(0) ? A(0) : output[d] / sum);
  if (args.logsumexp) out<A>(args.logsumexp)[view.statistic_at(i)] = logsumexp;
}

/// Accumulators of one key/value head: [keys, head_size] each, and dq of one query [head_size]; then, where there are
/// such, d(relative_q) of one query, and what all heads and sequences share: gradients of table and relative keys.
template <typename A>
struct BackwardScratch {
  A* dk;
  A* dv;
  A* dq;
  A* relative_q;
  A* table;
  A* relative_k;

  BackwardScratch(const AttentionShape& s, void* scratch) {
    dk = out<A>(scratch), dv = dk + s.keys * s.head_size, dq = dv + s.keys * s.head_size;
    relative_q = dq + s.head_size, table = relative_q + relative_row(s), relative_k = table + table_elements(s);
  }
  static int64_t relative_row(const AttentionShape& s) { return s.relative_distances > 0 ? s.head_size : 0; }
  static int64_t table_elements(const AttentionShape& s) { return s.bias_distances * s.heads; }
  static int64_t relative_elements(const AttentionShape& s) { return s.relative_distances * s.heads * s.head_size; }
  static int64_t elements(const AttentionShape& s) {
    return (2 * s.keys + 1) * s.head_size + relative_row(s) + table_elements(s) + relative_elements(s);
  }
};

/// A row of `count` gradients at element `at` of `to`: written, or added in the type of sums.
template <typename T, typename A>
void give(const AttentionBackwardArgs& args, const A* row, void* to, int64_t at, int64_t count) {
  for (int64_t d = 0; d < count; ++d) {
    if (args.accumulate)
      out<A>(to)[at + d] += row[d];
    else
      store(out<T>(to)[at + d], row[d]);
  }
}

/// The relative term of one score.
template <typename T, typename A>
void relative_backward(const AttentionBackwardArgs& args, const HeadView& view, int64_t i, int64_t j, A dscore,
                       const BackwardScratch<A>& scratch) {
  const T* q = in<T>(args.mask.relative_q) + view.query_at(i);
  const T* k = in<T>(args.mask.relative_k) + view.relative_key_at(i, j);
  A* dk = scratch.relative_k + view.relative_key_at(i, j);
  for (int64_t d = 0; d < args.shape.head_size; ++d) {
    scratch.relative_q[d] += dscore * load(k[d]);
    dk[d] += dscore * load(q[d]);
  }
}

template <typename T, typename A>
void attend_backward(const AttentionBackwardArgs& args, const HeadView& view, int64_t i,
                     const BackwardScratch<A>& scratch) {
  const int64_t size = args.shape.head_size;
  const A scale = A(args.shape.scale), logsumexp = in<A>(args.logsumexp)[view.statistic_at(i)];
  const T* q = in<T>(args.q) + view.query_at(i);
  const T* d_o = in<T>(args.d_o) + view.output_at(i);
  const A inner = dot(d_o, in<T>(args.o) + view.output_at(i), size);  // = sum over j of w (dL/dw)
  std::fill_n(scratch.dq, size + scratch.relative_row(args.shape), A(0));
  for (int64_t j = 0; j < view.key_length; ++j) {
    if (!view.visible(i, j)) continue;
    const T* k = in<T>(args.k) + view.key_at(j);
    const T* v = in<T>(args.v) + view.key_at(j);
    const A weight = std::exp(scale * dot(q, k, size) + view.template bias<T, A>(i, j) - logsumexp);
    const A keep = view.template keep<A>(i, j);
    const A draw = weight * (keep * dot(d_o, v, size) - inner), dscore = scale * draw;
    for (int64_t d = 0; d < size; ++d) {
      scratch.dv[j * size + d] += weight * keep * load(d_o[d]);
      scratch.dk[j * size + d] += dscore * load(q[d]);
      scratch.dq[d] += dscore * load(k[d]);
    }
    if (args.shape.bias_distances > 0) scratch.table[view.table_at(i, j)] += draw;
    if (args.shape.relative_distances > 0) relative_backward<T>(args, view, i, j, dscore, scratch);
  }
  give<T>(args, scratch.dq, args.dq, view.query_at(i), size);
  if (args.shape.relative_distances > 0) give<T>(args, scratch.relative_q, args.d_relative_q, view.query_at(i), size);
}

/// All query heads that read one key/value head, in ascending order.
template <typename T, typename A>
void group_backward(const AttentionBackwardArgs& args, int64_t b, int64_t kv_head, const BackwardScratch<A>& scratch) {
  const AttentionShape& s = args.shape;
  const int64_t group = s.heads / s.kv_heads;
  std::fill_n(scratch.dk, s.keys * s.head_size, A(0));
  std::fill_n(scratch.dv, s.keys * s.head_size, A(0));
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const HeadView view(s, args.mask, args.dropout, b, h);
    for (int64_t i = 0; i < s.queries; ++i) attend_backward<T, A>(args, view, i, scratch);
  }
  const HeadView view(s, args.mask, args.dropout, b, kv_head * group);
  for (int64_t j = 0; j < s.keys; ++j) {
    give<T>(args, scratch.dk + j * s.head_size, args.dk, view.key_at(j), s.head_size);
    give<T>(args, scratch.dv + j * s.head_size, args.dv, view.key_at(j), s.head_size);
  }
}

}  // namespace

size_t attention_scratch(const AttentionShape& s) {
  return static_cast<size_t>(s.keys + s.head_size) * bytes_of(accumulation_of(s.dtype));
}

void attention(const AttentionArgs& args) {
  const AttentionShape& s = args.shape;
  with_element(s.dtype, "attention", [&]<typename T>(T) {
    using A = Accumulation<T>;
    A* scores = out<A>(args.scratch);
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const HeadView view(s, args.mask, args.dropout, b, h);
        for (int64_t i = 0; i < s.queries; ++i) attend<T, A>(args, view, i, scores, scores + s.keys);
      }
    }
  });
}

size_t attention_backward_scratch(const AttentionShape& s) {
  return static_cast<size_t>(BackwardScratch<double>::elements(s)) * bytes_of(accumulation_of(s.dtype));
}

void attention_backward(const AttentionBackwardArgs& args) {
  const AttentionShape& s = args.shape;
  with_element(s.dtype, "attention_backward", [&]<typename T>(T) {
    using A = Accumulation<T>;
    const BackwardScratch<A> scratch(s, args.scratch);
    const int64_t table = scratch.table_elements(s), relative = scratch.relative_elements(s);
    std::fill_n(scratch.table, table + relative, A(0));
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.kv_heads; ++h) group_backward<T, A>(args, b, h, scratch);
    }
    if (table > 0) give<T>(args, scratch.table, args.d_distance_bias, 0, table);
    if (relative > 0) give<T>(args, scratch.relative_k, args.d_relative_k, 0, relative);
  });
}

}  // namespace capstan::kernels::reference
