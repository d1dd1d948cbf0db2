#pragma once
// How large a model is and what a token of training costs, in every convention that scaling laws are written in; a fit
// is only worth something when it says which it used. The parts of N always add up to the total. The cost is taken from
// the plan itself, op by op; the closed forms stand beside it as an independent count. Rule: a FLOP count is of one
// token of training, forward and backward; recomputation is never part of it, except in `executed`.

#include <cstdint>

#include "core/models/decoder_config.h"
#include "core/plan.h"

namespace capstan {

/// Logical parameters: rows that pad the vocabulary are left out. Norms and biases are in the blocks.
struct ParameterParts {
  int64_t embedding = 0;  ///< tokens; the head too where it is tied
  int64_t positions = 0;  ///< learned positions
  int64_t head = 0;       ///< 0 where it is tied
  int64_t blocks = 0;     ///< everything else: what Kaplan et al. call non-embedding
  int64_t total() const { return embedding + positions + head + blocks; }
};
ParameterParts parameter_parts(const DecoderConfig& model);

/// FLOP a token, from a plan of one rank. Matrix products and attention; nothing else weighs.
struct PlanCost {
  double half = 0;      ///< a causal mask leaves half of the T x T products: what is needed
  double whole = 0;     ///< as if it left all of them: what most papers count
  double executed = 0;  ///< as replayed: attention's backward pass makes its scores again, and so may recomputation
};
/// `tokens`: of one replay.
PlanCost plan_cost(const Plan& plan, double tokens);
/// Plans the model for one rank and prices it; nothing is allocated. `model.vocabulary` must be known.
PlanCost plan_cost(const DecoderConfig& model);

/// The same from the shapes alone: 6 x (weights of products) + attention. Equal to plan_cost.
struct ClosedCost {
  double half = 0, whole = 0;
};
ClosedCost closed_cost(const DecoderConfig& model);

/// Hoffmann et al. 2022, appendix F: whole attention, softmax, and embedding and head as products (the two that their
/// table A4 leaves out), backward = twice forward.
double hoffmann_cost(const DecoderConfig& model);
/// Bi et al. 2024 (DeepSeek LLM): M, non-embedding FLOP a token, 72 L d^2 + 12 L d s for their shape; here from the
/// blocks' own products, so that it holds for any shape.
double deepseek_cost(const DecoderConfig& model);

}  // namespace capstan
