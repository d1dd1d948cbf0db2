#pragma once
// What all attention ops share, whole and ring, forward and backward: operands, mask rules, the part of the heads that
// a rank has, placement rules and cost. Rule: the operands of a gradient are those of its forward op, then o, logsumexp
// and the gradient of o; its results are the gradients of q, k and v, then of those of kLearned that are there.

#include <array>

#include "core/op.h"
#include "core/ops/attention.h"

namespace capstan {

struct MaskRules {
  bool causal;
  int64_t window;
};

enum AttentionOperand : int {
  kQ,
  kK,
  kV,
  kQueryDocuments,
  kKeyDocuments,
  kKeyLengths,
  kPrefixLengths,
  kSlopes,
  kDistanceBias,
  kRelativeQ,
  kRelativeK,
  kRandom,
  kAttentionOperands,
  // and of a gradient:
  kOutput = kAttentionOperands,
  kLogsumexp,
  kOutputGradient
};

/// Operands beside q, k and v that have a gradient, in the order of the gradient's results.
constexpr std::array kLearned{kDistanceBias, kRelativeQ, kRelativeK};

class AttentionBase : public Op {
 public:
  AttentionBase(const AttentionSpec& spec, const MaskRules& rules) : spec_(spec), rules_(rules) {}
  std::string attributes() const override;
  /// Shapes of o and logsumexp, or of the gradients of q, k and v.
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override;
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override;

 protected:
  virtual bool is_gradient() const = 0;
  static void place_learned(std::span<const InputSpec> in, Signature& rule);

  kernels::AttentionShape local_shape_of(const BindContext& c) const;
  /// The key/value heads, counted from the first that this rank holds, that its query heads read. All that it holds
  /// where both are sharded alike; one, or a run, of them where keys and values are whole beside sharded queries.
  Extent heads_read(const BindContext& c) const;
  /// Bytes from the start of keys and values to the first head that is read.
  size_t offset_of_heads(const BindContext& c) const;
  /// What the mask and dropout read must be as long as what they are read for.
  void check_operands(std::span<const InputSpec> in) const;
  /// Which of a gradient's results are those for kLearned; -1 where there is none.
  static std::array<int, kLearned.size()> learned_results(const std::vector<bool>& has_in);
  /// FLOPs of the products of queries and keys that the mask leaves, of one of `ranks` that share a sequence equally.
  Cost product_cost(std::span<const TensorSpec> in, std::span<const TensorSpec> out, int ranks) const;

  template <typename Args>
  void point_operands(Args& args, const RunArgs& a, size_t offset) const {
    args.q = a.in[kQ];
    args.k = static_cast<const char*>(a.in[kK]) + offset, args.v = static_cast<const char*>(a.in[kV]) + offset;
    args.mask.query_documents = static_cast<const int32_t*>(a.in[kQueryDocuments]);
    args.mask.key_documents = static_cast<const int32_t*>(a.in[kKeyDocuments]);
    args.mask.key_lengths = static_cast<const int32_t*>(a.in[kKeyLengths]);
    args.mask.prefix_lengths = static_cast<const int32_t*>(a.in[kPrefixLengths]);
    args.mask.alibi_slopes = static_cast<const float*>(a.in[kSlopes]);
    args.mask.distance_bias = a.in[kDistanceBias];
    args.mask.relative_q = a.in[kRelativeQ], args.mask.relative_k = a.in[kRelativeK];
    args.dropout.probability = spec_.dropout;
    args.dropout.stream = spec_.site;
    args.dropout.key = static_cast<const uint64_t*>(a.in[kRandom]);
    args.dropout.first_sample = a.in[kRandom] ? args.dropout.key + 1 : nullptr;
    args.scratch = a.scratch;
  }

  AttentionSpec spec_;
  MaskRules rules_;
};

/// Records `gradient` with the operands and results of the forward op at hand, and contributes what it gives.
void record_attention_gradient(Adjoint& a, OpPtr gradient);

/// What an attention op's adjoint reads.
constexpr Kept kKeptByAttention{(1u << kAttentionOperands) - 1, 0b11};

}  // namespace capstan
