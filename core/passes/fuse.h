#pragma once
// Fuse: pairs of nodes that a product's epilogue does in one go, where the backend says that it gains from their shape
// (Backend::fuses). After recomputation, so that what is made again is fused as the first time was:
//   linear, activation                               -> "linear activation", which also leaves the activation's input
//   linear input gradient, activation gradient       -> "linear activation gradient"
//   linear weight gradient, bias gradient of one dy  -> "linear parameter gradients"
// Both nodes run in the same part of the same chunk, and what passed between them is read by nobody else. No other
// pairs: docs/decisions/0014-a-pass-that-fuses.md.

#include "core/tape.h"
#include "kernels/backend.h"

namespace capstan {

void fuse(Tape& tape, const kernels::Backend& backend);

}  // namespace capstan
