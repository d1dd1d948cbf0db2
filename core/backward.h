#pragma once
// Reverse-mode differentiation of a tape, recorded onto the same tape (Part::backward). Each op's adjoint() is called
// once, in reverse order, with the sum of the gradients that reached its outputs; it records gradient ops and hands
// gradients to its inputs. Gradients of parameters never become tensors of their own: the op writes into, or adds to,
// the parameter's run of the flat gradient buffer ("gradient.<name>").

#include <vector>

#include "core/recorder.h"

namespace capstan {

class BackwardPass;

/// What an op's adjoint() sees.
class Adjoint {
 public:
  Adjoint(BackwardPass& pass, const Node& node) : pass_(pass), node_(node) {}

  Recorder& recorder();
  /// Gradient that reached output i; absent when nothing depends on it.
  Value gradient(int output) const;
  /// Forward operands; only those that the op's kept() names.
  Value input(int i) const;
  Value output(int i) const;
  bool has_input(int i) const { return node_.inputs[static_cast<size_t>(i)] != kNoTensor; }
  bool needs(int input) const;
  /// Gradient that other readers of input i have contributed so far, in the placements `wanted` asks (absent if none):
  /// an op that can add it on the way calls replace() with the total.
  Value so_far(int input) const;
  /// Adds a contribution.
  void contribute(int input, Value gradient);
  void replace(int input, Value total);
  /// Where the gradient of input i is to be written: the parameter's buffer, or absent for any other tensor.
  Value parameter_buffer(int input) const;
  /// How a write into the parameter buffers of these inputs must treat what is there; marks them as written.
  Accumulate claim(std::initializer_list<int> inputs);

 private:
  BackwardPass& pass_;
  const Node& node_;
};

/// Records the backward pass of every loss op on the tape. Throws Error(internal) when a trainable parameter of the
/// tape gets no gradient.
void record_backward(Recorder& recorder);

}  // namespace capstan
