#pragma once
// Evaluator: sums the loss of plan `evaluate` over the first samples of a split, shared out among the data ranks.

#include <functional>

#include "launch/data_feed.h"

namespace capstan {

struct Evaluation {
  double nats = 0.0, weights = 0.0, bytes = 0.0;
  int64_t samples = 0;
  double loss() const { return nats / weights; }  ///< nats per token
  double bits_per_byte() const;
};

/// Collective over dp. `samples` is cut to what the split holds. `progress` (may be empty) gets samples done.
Evaluation evaluate(TrainingProgram& training, CorpusStream& stream, int64_t samples,
                    const std::function<void(int64_t)>& progress = {});

}  // namespace capstan
