#pragma once
// Attention whose sequence is divided over cp (context parallelism). Keys and values, with the documents they belong
// to, go round the ring of ranks in as many steps as there are ranks; each rank attends from its own queries to those
// that are with it, and merges what it gets. Backward they go round once more, and the sums of their gradients travel
// with them until they are home. No rank ever holds more of them than its own share, four times at most.
//
// Every rank holds two chunks of the sequence (zigzag, core/placement.h), so the work is cut into blocks of one chunk
// of queries against one of keys. Blocks that the mask hides whole are left out; a causal mask leaves each rank two in
// a step. What travels, in order: keys (batch, tokens, heads read), values, and ids of documents if there are any; back
// home go sums of key gradients and value gradients, in the dtype of sums.

#include "core/ops/attention_base.h"

namespace capstan {

/// ranks: of cp, over which queries and keys are divided alike.
OpPtr make_ring_attention(const AttentionSpec& spec, const MaskRules& rules, int ranks);

}  // namespace capstan
