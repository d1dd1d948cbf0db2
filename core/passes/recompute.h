#pragma once
// Recomputation: which forward tensors are thrown away and made again in the backward pass. Works on a differentiated
// tape: whenever a backward node reads a dropped tensor, the forward node that made it (and what that needs, as far as
// it was dropped too) is recorded again just before. The same kernels run on the same operands, and random numbers are
// keyed by logical element, so results are bitwise those of no recomputation.

#include "core/tape.h"

namespace capstan {

struct Recompute {
  enum class Policy { none, selective, full } policy = Policy::none;
  int layers = -1;  ///< full in the first `layers` regions only; -1: all
};

/// selective drops the outputs of cheap ops inside regions (norms, activations, rotary, dropout); full drops all that
/// is made inside a region and read only there, so that a region keeps what enters it.
void recompute(Tape& tape, const Recompute& choice);

}  // namespace capstan
