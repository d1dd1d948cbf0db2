#pragma once
// Tape: the flat list of ops that one rank runs, in order, over tensors that do not have an address yet. It is written
// once by a Recorder, extended by backward(), changed by passes, and then planned; never interpreted while training.

#include <cstdint>
#include <string>
#include <vector>

#include "core/op.h"

namespace capstan {

using TensorId = int32_t;
constexpr TensorId kNoTensor = -1;

/// What memory is for; the table by purpose is printed before anything is allocated.
enum class Purpose : uint8_t {
  parameter,
  working,
  gradient,
  moment,
  input,
  scalar,
  cache,
  window,
  reduction,
  activation,
  statistic,
  gradient_activation,
  scratch
};
constexpr int kPurposeCount = 13;
const char* name_of(Purpose purpose);

struct TapeTensor {
  std::string name;
  TensorSpec spec;
  Purpose purpose = Purpose::activation;
  int persistent = -1;  ///< index into the PersistentSpace, or -1: lives only while it is needed
  bool needs_gradient = false;
  int contributions = 0;  ///< of a parameter's gradient: ops of the backward pass that write it or add to it
  bool windowed = false;  ///< of a gradient: what holds it is cleared before the contributions of each part
};

/// Part of a plan that is replayed as a unit; forward, backward and weights (gradients that a schedule forms apart)
/// once for each chunk of a pipeline and microbatch.
enum class Part : uint8_t { begin, forward, backward, weights, carry, store, update };
const char* name_of(Part part);

enum class Accumulate : uint8_t { never, after_first_microbatch, always };

struct Node {
  OpPtr op;
  std::vector<TensorId> inputs;  ///< kNoTensor where an optional input is absent
  std::vector<TensorId> outputs;
  Part part = Part::forward;
  int level = 0;    ///< of the summation tree, for Part::carry and Part::store
  int region = -1;  ///< layer, for recomputation; -1: outside of any
  int chunk = 0;    ///< of a pipeline: in which this node is replayed
  Accumulate accumulate = Accumulate::never;
  bool recomputed = false;
  bool lane = false;  ///< communicates beside the computation (core/passes/overlap.h)
};

struct Tape {
  Mesh mesh;
  std::vector<TapeTensor> tensors;
  std::vector<Node> nodes;

  const TapeTensor& at(TensorId id) const { return tensors[static_cast<size_t>(id)]; }
  /// One line a node: part, name, attributes, operands with their specs. What digests and golden tests see.
  std::string to_text() const;
};

/// Whether the operands of this node stand as one of its op's signatures wants, on every axis of more than one rank.
bool placements_fit(const Tape& tape, const Node& node);

/// Checks what every pass must leave true: operands are written before they are read, shapes follow from the ops'
/// rules, placements match a signature on every axis of more than one rank, in-place promises name real operands, every
/// contribution to a parameter's gradient is there and the first does not add to what the step before left.
/// Throws Error(internal) naming pass, node and tensor.
void verify(const Tape& tape, const std::string& after_pass);

}  // namespace capstan
