#pragma once
// How the backward pass of attention is divided among threads, and what lies where in its scratch. The work is cut by
// (sequence, key/value head), and by key blocks into `parts` when that is too few for the threads. dk and dv of a key
// block are summed by one thread over heads and query blocks in ascending order; dq is summed over key blocks in a
// buffer of the part, and the parts are then added in ascending order. What all sequences share, the table by distance
// and the relative keys, has sums of its own in each part of each unit.

#include "kernels/cpu/vector/attention_distance.h"
#include "kernels/cpu/vector/attention_tile.h"

namespace capstan::kernels::CAPSTAN_ISA {

/// Offsets and sizes are in floats; those of a thread count from its own memory.
struct BackwardLayout {
  HeadSizes head;
  DistanceRows distances;
  int64_t units, parts = 1, buffers;
  int64_t dq_floats, delta_floats;
  int64_t key_panels = 0, value_panels, keys, queries, outputs, dk, dv, weights, dscores, words, factors, thread_floats;
  int64_t relative_queries, relative_panels, relative_keys, relative_scores, relative_dkeys;  // of a thread, or nothing
  int64_t relative_dq, relative_sums, item_floats;  // within a part's dq, within a part's shared sums; of these
  int64_t thread_base, items_base, distance_rows, floats;

  BackwardLayout(const AttentionShape& s, int threads) : head(s), distances(s), units(s.batch * s.kv_heads) {
    const int64_t key_blocks = blocks_of(s.keys, kKeyBlock), most = smaller<int64_t>(smaller(threads, 16), key_blocks);
    const auto share_used = [&](int64_t n) {
      return static_cast<double>(n) / static_cast<double>(round_up(n, threads));
    };
    while (units > 0 && parts < most && share_used(units * parts) < 0.8) ++parts;
    buffers = parts == 1 ? smaller<int64_t>(threads, units) : units * parts;
    const int64_t some = s.relative_distances > 0 ? 1 : 0;
    relative_dq = head.group * s.queries * head.padded;
    dq_floats = (1 + some) * relative_dq;
    relative_sums = s.bias_distances > 0 ? head.group * distances.stride : 0;
    item_floats = round_up(relative_sums + head.group * s.relative_distances * head.padded, 32);
    delta_floats = round_up(head.group * s.queries, 16);
    const int64_t plain = kKeyBlock * head.padded, panel = kKeyBlock * head.size, tile = kQueryBlock * kScoreStride;
    value_panels = key_panels + panel;
    keys = value_panels + panel;
    queries = keys + kKeyBlock * head.stride;
    outputs = queries + kQueryBlock * head.stride;
    dk = outputs + kQueryBlock * head.stride;
    dv = dk + plain;
    weights = dv + plain;
    dscores = weights + tile;
    words = dscores + tile;
    factors = words + kDropoutWords;
    relative_queries = round_up(delta() + delta_floats, 16);
    relative_panels = relative_queries + some * kQueryBlock * head.stride;
    relative_keys = relative_panels + some * kRelativeColumns * head.size;
    relative_scores = relative_keys + some * kRelativeColumns * head.stride;
    relative_dkeys = relative_scores + some * kQueryBlock * kRelativeStride;
    thread_floats = round_up(relative_dkeys + some * kRelativeColumns * head.padded, 32);
    thread_base = round_up(buffers * dq_floats, 32);
    items_base = thread_base + threads * thread_floats;
    distance_rows = items_base + units * parts * item_floats;
    floats = distance_rows + distances.floats;
  }
  int64_t delta() const { return round_up(factors + kKeyBlock + kLanes, 16); }
};

}  // namespace capstan::kernels::CAPSTAN_ISA
