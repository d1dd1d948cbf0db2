#include "core/ops/ring_attention.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "core/backward.h"
#include "core/error.h"

namespace capstan {
namespace {

/// One chunk of this rank's queries against one chunk of the keys that are with it.
struct RingBlock {
  int64_t query = 0, key = 0;     ///< first tokens of both, in what a rank holds of a sequence
  kernels::AttentionShape shape;  ///< of one sequence
};

/// How the ring of one rank goes.
struct KeyRing {
  Communicator* group = nullptr;
  int ranks = 1;
  DType dtype = DType::f32;
  int64_t batch = 0, tokens = 0;
  int64_t q_width = 0, kv_width = 0, sent_width = 0;  ///< elements of a token: of q, of k as held, of k as sent
  size_t first_head = 0;                              ///< elements from the first head held to the first sent
  bool documents = false;
  void (*copy)(const kernels::CopyArgs&) = nullptr;
  void (*fill)(const kernels::FillArgs&) = nullptr;
  void (*cast)(const kernels::CastArgs&) = nullptr;
  std::vector<std::vector<RingBlock>> steps;

  size_t element() const { return bytes_of(dtype); }
  size_t sum_element() const { return bytes_of(accumulation_of(dtype)); }
  size_t q_elements() const { return static_cast<size_t>(batch * tokens * q_width); }
  size_t sent_elements() const { return static_cast<size_t>(batch * tokens * sent_width); }
  size_t message_bytes() const {
    return 2 * sent_elements() * element() + (documents ? static_cast<size_t>(batch * tokens) * sizeof(int32_t) : 0);
  }
  size_t sums_bytes() const { return 2 * sent_elements() * sum_element(); }
  /// Sums of q's size are formed in place where o and dq have the dtype of sums.
  size_t q_sums_bytes() const { return element() == sum_element() ? 0 : q_elements() * sum_element(); }
};

/// A buffer's room in scratch.
size_t room(size_t bytes) { return (bytes + 63) / 64 * 64; }

/// The heads that are read, of rows that hold others too, made dense.
void pack_heads(const KeyRing& ring, const void* from, char* to, kernels::Stream stream) {
  const size_t row = static_cast<size_t>(ring.sent_width) * ring.element();
  const size_t stride = static_cast<size_t>(ring.kv_width) * ring.element();
  const char* source = static_cast<const char*>(from) + ring.first_head * ring.element();
  ring.copy({source, to, row, ring.batch * ring.tokens, stride, row, stream});
}

void pack_message(const KeyRing& ring, const RunArgs& a, char* message) {
  const size_t bytes = ring.sent_elements() * ring.element();
  pack_heads(ring, a.in[kK], message, a.stream);
  pack_heads(ring, a.in[kV], message + bytes, a.stream);
  if (ring.documents)
    ring.copy({a.in[kKeyDocuments], message + 2 * bytes,
               static_cast<size_t>(ring.batch * ring.tokens) * sizeof(int32_t), 1, 0, 0, a.stream});
}

/// Operands of sequence b, of a block: what AttentionBase::point_operands has set for the whole tensors, moved there.
template <typename Args>
void move_to_block(Args& args, const KeyRing& ring, const RingBlock& block, int64_t b, const char* message) {
  const int64_t query = b * ring.tokens + block.query, key = b * ring.tokens + block.key;
  const size_t k = static_cast<size_t>(key * ring.sent_width) * ring.element();
  const size_t bytes = ring.sent_elements() * ring.element();
  args.shape = block.shape;
  args.q = static_cast<const char*>(args.q) + static_cast<size_t>(query * ring.q_width) * ring.element();
  args.k = message + k, args.v = message + bytes + k;
  if (ring.documents) {
    args.mask.query_documents += query;
    args.mask.key_documents = reinterpret_cast<const int32_t*>(message + 2 * bytes) + key;
  }
  if (args.mask.prefix_lengths) args.mask.prefix_lengths += b;
  if (args.mask.relative_q)
    args.mask.relative_q =
        static_cast<const char*>(args.mask.relative_q) + static_cast<size_t>(query * ring.q_width) * ring.element();
}

/// Where the statistics of a block begin: (batch, heads, tokens).
size_t statistic_of(const KeyRing& ring, const RingBlock& block, int64_t b) {
  return static_cast<size_t>(b * block.shape.heads * ring.tokens + block.query);
}

class RingBase : public AttentionBase {
 public:
  RingBase(const AttentionSpec& spec, const MaskRules& rules, int ranks) : AttentionBase(spec, rules), ranks_(ranks) {}
  std::string attributes() const override { return fmt::format("{} cp={}", AttentionBase::attributes(), ranks_); }
  bool is_collective() const override { return true; }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out) const override {
    return product_cost(in, out, ranks_);
  }
  /// The shifts of messages and, backward, of sums.
  Wire wire(std::span<const TensorSpec> in, std::span<const TensorSpec>, const Mesh& mesh) const override {
    int64_t divided = 1;  // heads: over so many ranks
    for (const Axis axis : kAllAxes)
      if (on(in[kQ].placements, axis) == Shard(2)) divided *= mesh.size(axis);
    const int64_t heads = spec_.heads / divided, size = in[kQ].shape[2] / heads;
    const int64_t read = std::max<int64_t>(1, heads * spec_.kv_heads / spec_.heads);
    const double pairs = 2.0 * static_cast<double>(in[kK].shape[0] * in[kK].shape[1] * read * size), ranks = ranks_;
    const double message = pairs * static_cast<double>(bytes_of(in[kK].dtype)) +
                           static_cast<double>(in[kKeyDocuments].elements() * bytes_of(in[kKeyDocuments].dtype));
    const double sums = pairs * static_cast<double>(bytes_of(accumulation_of(in[kK].dtype)));
    return {Axis::cp, (ranks - 1.0) * message + (is_gradient() ? ranks * sums : 0.0)};
  }
  /// Beside what whole attention takes: the sequence divided alike in all that has one.
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules = AttentionBase::signatures(in);
    Signature sequence{std::vector<Placement>(rules[0].inputs.size(), Replicate), {Shard(1), Shard(2)}};
    for (const int i : {kQ, kK, kV, kQueryDocuments, kKeyDocuments, kRelativeQ})
      sequence.inputs[static_cast<size_t>(i)] = Shard(1);
    if (is_gradient()) {
      sequence.inputs[kOutput] = sequence.inputs[kOutputGradient] = Shard(1), sequence.inputs[kLogsumexp] = Shard(2);
      sequence.outputs.assign(3, Shard(1));
      place_learned(in, sequence);
    }
    rules.push_back(sequence);
    return rules;
  }

 protected:
  KeyRing ring_of(const BindContext& c) const {
    const int64_t context = c.in[kQ].shape[1];
    CAPSTAN_CHECK(c.mesh.size(Axis::cp) == ranks_ && c.in[kK].shape[1] == context &&
                      c.in_local[kQ][1] * ranks_ == context && c.in_local[kK][1] * ranks_ == context &&
                      !c.has_in[kKeyLengths],
                  "{}: q {} and k {} on {}: wanted one whole sequence divided over cp alone", name(),
                  to_string(c.in[kQ]), to_string(c.in[kK]), c.mesh.describe());
    kernels::AttentionShape shape = local_shape_of(c);
    KeyRing ring;
    ring.group = c.communicators.of[static_cast<size_t>(Axis::cp)];
    ring.ranks = ranks_;
    ring.dtype = shape.dtype;
    ring.copy = c.backend.copy, ring.fill = c.backend.fill, ring.cast = c.backend.cast;
    ring.batch = shape.batch, ring.tokens = shape.queries;
    ring.q_width = shape.q_stride, ring.kv_width = shape.kv_stride;
    ring.sent_width = shape.kv_heads * shape.head_size;
    ring.first_head = static_cast<size_t>(heads_read(c).first * shape.head_size);
    ring.documents = c.has_in[kKeyDocuments];
    shape.batch = 1, shape.kv_stride = ring.sent_width;
    shape.all_queries = shape.all_keys = context, shape.statistic_stride = ring.tokens;
    add_steps(ring, shape, c.mesh.coordinate(Axis::cp), c.has_in[kPrefixLengths]);
    return ring;
  }
  /// The shape of the largest block: what a kernel's scratch is asked for.
  static kernels::AttentionShape largest(const KeyRing& ring) { return ring.steps[0][0].shape; }

  int ranks_;

 private:
  /// In step t the keys of rank - t are with this rank.
  void add_steps(KeyRing& ring, kernels::AttentionShape shape, int rank, bool has_prefix) const {
    const int64_t context = shape.all_queries;
    shape.queries = shape.keys = context / (2 * ranks_);
    for (int t = 0; t < ranks_; ++t) {
      const auto keys = zigzag_chunks(context, ranks_, round_the_ring(rank, -t, ranks_));
      const auto queries = zigzag_chunks(context, ranks_, rank);
      std::vector<RingBlock>& blocks = ring.steps.emplace_back();
      for (int64_t q = 0; q < 2; ++q)
        for (int64_t k = 0; k < 2; ++k) {
          shape.first_query = queries[static_cast<size_t>(q)].first,
          shape.first_key = keys[static_cast<size_t>(k)].first;
          if (!hidden(shape, has_prefix)) blocks.push_back({q * shape.queries, k * shape.keys, shape});
        }
    }
  }
  /// Whether the mask hides every key of a block from every query of it.
  bool hidden(const kernels::AttentionShape& shape, bool has_prefix) const {
    const int64_t nearest = shape.first_query - (shape.first_key + shape.keys - 1);  // the least p - j
    const int64_t farthest = shape.first_query + shape.queries - 1 - shape.first_key;
    if (rules_.causal && !has_prefix && farthest < 0) return true;
    return rules_.window > 0 && (nearest >= rules_.window || (!rules_.causal && -farthest >= rules_.window));
  }
};

class RingAttentionGradient final : public RingBase {
 public:
  using RingBase::RingBase;
  std::string_view name() const override { return "ring attention gradient"; }

  // Scratch: the kernel's, two messages, two buffers of sums that travel, sums that stay.
  Bound bind(const BindContext& c) const override {
    const KeyRing ring = ring_of(c);
    const auto self = std::make_shared<RingAttentionGradient>(*this);  // the closure may outlive the tape
    const size_t of_kernel = room(c.backend.attention_backward_scratch(largest(ring)));
    const std::vector<Resting> resting = resting_of(c, ring);
    size_t bytes = of_kernel + 2 * room(ring.message_bytes()) + 2 * room(ring.sums_bytes());
    for (const Resting& sum : resting) bytes += sum.scratch_bytes(ring);
    return {bytes, [=, run = c.backend.attention_backward](const RunArgs& a) {
              char* messages[2] = {static_cast<char*>(a.scratch) + of_kernel, nullptr};
              messages[1] = messages[0] + room(ring.message_bytes());
              char* sums[2] = {messages[1] + room(ring.message_bytes()), nullptr};
              sums[1] = sums[0] + room(ring.sums_bytes());
              std::array<char*, kMostResting> rest{};
              char* free = sums[1] + room(ring.sums_bytes());
              for (size_t i = 0; i < resting.size(); ++i) {
                const Resting& sum = resting[i];
                rest[i] = sum.scratch_bytes(ring) > 0 ? free : static_cast<char*>(a.out[sum.result]);
                free += sum.scratch_bytes(ring);
                ring.fill({rest[i], static_cast<int64_t>(sum.elements), 0.0, accumulation_of(ring.dtype), a.stream});
              }
              const DType wide = accumulation_of(ring.dtype);
              ring.fill({sums[0], 2 * static_cast<int64_t>(ring.sent_elements()), 0.0, wide, a.stream});
              pack_message(ring, a, messages[0]);
              for (int t = 0; t < ring.ranks; ++t) {
                if (t + 1 < ring.ranks)
                  ring.group->shift(messages[t % 2], messages[(t + 1) % 2], ring.message_bytes(), 1);
                for (const RingBlock& block : ring.steps[static_cast<size_t>(t)])
                  self->run_block(ring, block, a, run, messages[t % 2], sums[t % 2], resting, rest);
                ring.group->shift(sums[t % 2], sums[(t + 1) % 2], ring.sums_bytes(), 1);
              }
              for (size_t i = 0; i < resting.size(); ++i)
                if (rest[i] != a.out[resting[i].result])
                  ring.cast({rest[i], a.out[resting[i].result], static_cast<int64_t>(resting[i].elements), wide,
                             ring.dtype, a.stream});
              for (size_t i = 0; i < 2; ++i)
                unpack_heads(ring, sums[ring.ranks % 2] + i * ring.sums_bytes() / 2, messages[0], a.out[1 + i],
                             a.stream);
            }};
  }

 protected:
  bool is_gradient() const override { return true; }

 private:
  /// A gradient that is summed where it is, over all steps: of the queries and of kLearned.
  struct Resting {
    int operand = kQ, result = 0;
    size_t elements = 0;
    /// Sums are formed in place where the result has their dtype.
    size_t scratch_bytes(const KeyRing& ring) const {
      return ring.element() == ring.sum_element() ? 0 : room(elements * ring.sum_element());
    }
  };
  static constexpr size_t kMostResting = 1 + kLearned.size();

  static std::vector<Resting> resting_of(const BindContext& c, const KeyRing& ring) {
    std::vector<Resting> all{{kQ, 0, ring.q_elements()}};
    const auto results = learned_results(c.has_in);
    for (size_t i = 0; i < kLearned.size(); ++i) {
      const size_t operand = static_cast<size_t>(kLearned[i]);
      if (c.has_in[operand])
        all.push_back({kLearned[i], results[i], static_cast<size_t>(element_count(c.in_local[operand]))});
    }
    return all;
  }

  void run_block(const KeyRing& ring, const RingBlock& block, const RunArgs& a,
                 const std::function<void(const kernels::AttentionBackwardArgs&)>& run, const char* message, char* sums,
                 const std::vector<Resting>& resting, const std::array<char*, kMostResting>& rest) const {
    for (int64_t b = 0; b < ring.batch; ++b) {
      kernels::AttentionBackwardArgs args;
      point_operands(args, a, 0);
      move_to_block(args, ring, block, b, message);
      args.dropout.sample_offset = static_cast<uint64_t>(b);
      const size_t q = static_cast<size_t>((b * ring.tokens + block.query) * ring.q_width);
      const size_t k = static_cast<size_t>((b * ring.tokens + block.key) * ring.sent_width) * ring.sum_element();
      args.o = static_cast<const char*>(a.in[kOutput]) + q * ring.element();
      args.d_o = static_cast<const char*>(a.in[kOutputGradient]) + q * ring.element();
      args.logsumexp = static_cast<const char*>(a.in[kLogsumexp]) + statistic_of(ring, block, b) * ring.sum_element();
      for (size_t i = 0; i < resting.size(); ++i) {
        if (resting[i].operand == kQ) args.dq = rest[i] + q * ring.sum_element();
        if (resting[i].operand == kRelativeQ) args.d_relative_q = rest[i] + q * ring.sum_element();
        if (resting[i].operand == kRelativeK) args.d_relative_k = rest[i];
        if (resting[i].operand == kDistanceBias) args.d_distance_bias = rest[i];
      }
      args.dk = sums + k, args.dv = sums + ring.sums_bytes() / 2 + k;
      args.accumulate = true;
      args.stream = a.stream;
      run(args);
    }
  }

  /// Dense sums of the heads that are read into rows that have others too, which get 0 from this rank. room: for all
  /// of them in the result's dtype.
  static void unpack_heads(const KeyRing& ring, const char* sums, char* room, void* out, kernels::Stream stream) {
    const DType wide = accumulation_of(ring.dtype);
    if (ring.sent_width == ring.kv_width)
      return ring.cast({sums, out, static_cast<int64_t>(ring.sent_elements()), wide, ring.dtype, stream});
    ring.cast({sums, room, static_cast<int64_t>(ring.sent_elements()), wide, ring.dtype, stream});
    const size_t row = static_cast<size_t>(ring.sent_width) * ring.element();
    const size_t stride = static_cast<size_t>(ring.kv_width) * ring.element();
    const int64_t rows = ring.batch * ring.tokens;
    ring.fill({out, rows * ring.kv_width, 0.0, ring.dtype, stream});
    ring.copy({room, static_cast<char*>(out) + ring.first_head * ring.element(), row, rows, row, stride, stream});
  }
};

class RingAttention final : public RingBase {
 public:
  using RingBase::RingBase;
  std::string_view name() const override { return "ring attention"; }
  Kept kept() const override { return kKeptByAttention; }
  void adjoint(Adjoint& a) const override {
    record_attention_gradient(a, std::make_shared<RingAttentionGradient>(spec_, rules_, ranks_));
  }

  // Scratch: the kernel's, two messages, sums of o.
  Bound bind(const BindContext& c) const override {
    const KeyRing ring = ring_of(c);
    const auto self = std::make_shared<RingAttention>(*this);
    const size_t of_kernel = room(c.backend.attention_scratch(largest(ring)));
    const size_t bytes = of_kernel + 2 * room(ring.message_bytes()) + ring.q_sums_bytes();
    return {bytes, [=, run = c.backend.attention](const RunArgs& a) {
              char* messages[2] = {static_cast<char*>(a.scratch) + of_kernel, nullptr};
              messages[1] = messages[0] + room(ring.message_bytes());
              void* o = ring.q_sums_bytes() > 0 ? messages[1] + room(ring.message_bytes()) : a.out[0];
              const DType wide = accumulation_of(ring.dtype);
              ring.fill({o, static_cast<int64_t>(ring.q_elements()), 0.0, wide, a.stream});
              ring.fill({a.out[1], ring.batch * largest(ring).heads * ring.tokens,
                         -std::numeric_limits<double>::infinity(), wide, a.stream});
              pack_message(ring, a, messages[0]);
              for (int t = 0; t < ring.ranks; ++t) {
                if (t + 1 < ring.ranks)
                  ring.group->shift(messages[t % 2], messages[(t + 1) % 2], ring.message_bytes(), 1);
                for (const RingBlock& block : ring.steps[static_cast<size_t>(t)])
                  self->run_block(ring, block, a, run, messages[t % 2], o);
              }
              if (o != a.out[0])
                ring.cast({o, a.out[0], static_cast<int64_t>(ring.q_elements()), wide, ring.dtype, a.stream});
            }};
  }

 protected:
  bool is_gradient() const override { return false; }

 private:
  void run_block(const KeyRing& ring, const RingBlock& block, const RunArgs& a,
                 const std::function<void(const kernels::AttentionArgs&)>& run, const char* message, void* o) const {
    for (int64_t b = 0; b < ring.batch; ++b) {
      kernels::AttentionArgs args;
      point_operands(args, a, 0);
      move_to_block(args, ring, block, b, message);
      args.dropout.sample_offset = static_cast<uint64_t>(b);
      const size_t q = static_cast<size_t>((b * ring.tokens + block.query) * ring.q_width);
      args.o = static_cast<char*>(o) + q * ring.sum_element();
      args.logsumexp = static_cast<char*>(a.out[1]) + statistic_of(ring, block, b) * ring.sum_element();
      args.merge = true;
      args.stream = a.stream;
      run(args);
    }
  }
};

}  // namespace

OpPtr make_ring_attention(const AttentionSpec& spec, const MaskRules& rules, int ranks) {
  return std::make_shared<RingAttention>(spec, rules, ranks);
}

}  // namespace capstan
