#pragma once
// Op: one coarse step of a tape. An op owns no memory and knows no address; it knows its shape rule, its placement rule
// along one mesh axis, its adjoint, what its backward needs to keep, what it costs, and how it is bound to a Backend.
// A new op is one class: nothing else in the engine names it.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/communicator.h"
#include "core/mesh.h"
#include "core/placement.h"
#include "kernels/backend.h"

namespace capstan {

class Adjoint;  // core/backward.h

/// One acceptable combination of placements along one axis; Partial inputs appear only where the op is linear in them.
struct Signature {
  std::vector<Placement> inputs;
  std::vector<Placement> outputs;
};

/// Work of one rank: FLOPs (a multiply-add is two) and bytes read plus written.
struct Cost {
  double flops = 0.0;
  double bytes = 0.0;
};

/// What an op that communicates sends: over which axis, and bytes of one rank as the usual (ring) formula counts them
/// (parallel/communicator_count.h).
struct Wire {
  Axis axis = Axis::dp;
  double bytes = 0.0;
};

/// Which of a forward op's tensors its adjoint reads: bit i is input i, output i.
struct Kept {
  uint32_t inputs = 0;
  uint32_t outputs = 0;
};

/// Output `output` may have the memory of input `input` when nothing reads that input later.
struct InPlace {
  int output = 0;
  int input = 0;
};

/// What a bound op gets when it runs. Absent optional tensors are null pointers.
struct RunArgs {
  void* const* in = nullptr;
  void* const* out = nullptr;
  void* scratch = nullptr;
  bool accumulate = false;  ///< add to the output instead of writing it (gradients of parameters, sums of losses)
  kernels::Stream stream = nullptr;  ///< for the kernels: where they are queued on a device that has streams
};

/// The communicators of this rank, one per axis; groups of one where the axis has size 1.
struct AxisCommunicators {
  std::array<Communicator*, kAxisCount> of{};
  Communicator* ends = nullptr;  ///< the first and the last stage of this rank's pipeline; null on others
};

/// What an op sees when it is bound: the specs as this rank holds them (empty shape and null where absent).
struct BindContext {
  const kernels::Backend& backend;
  const Mesh& mesh;
  const AxisCommunicators& communicators;
  Channels* channels = nullptr;  ///< of this plan's transfers between stages
  Reduction reduction = Reduction::fast;
  std::vector<TensorSpec> in, out;  ///< global
  std::vector<Shape> in_local, out_local;
  std::vector<bool> has_in, has_out;
};

/// An op tied to a backend and to local sizes: runs without allocating.
struct Bound {
  size_t scratch_bytes = 0;
  std::function<void(const RunArgs&)> run;
};

/// An absent optional input has `present` false.
struct InputSpec {
  bool present = false;
  TensorSpec spec;
};

class Op {
 public:
  virtual ~Op() = default;
  virtual std::string_view name() const = 0;
  /// Everything that distinguishes two ops of one name, as text: part of the plan's digest and of inspect's table.
  virtual std::string attributes() const { return {}; }

  /// Shape rule on global shapes; throws Error(internal) on operands that do not fit. Placements are left out of it.
  virtual std::vector<TensorSpec> infer(std::span<const InputSpec> inputs) const = 0;
  /// Placement rule along one axis of more than one rank; the first signature that costs least is taken.
  virtual std::vector<Signature> signatures(std::span<const InputSpec> inputs) const = 0;

  virtual Kept kept() const { return {}; }
  /// Records the gradients of the inputs. Ops without gradient leave this alone.
  virtual void adjoint(Adjoint& adjoint) const;
  virtual std::vector<InPlace> in_place() const { return {}; }
  /// Cheap to run again compared with keeping its output: what selective recomputation drops.
  virtual bool cheap() const { return false; }
  virtual bool is_loss() const { return false; }
  /// Inputs whose elements are read (bit i: input i); of the others only shape and placement matter.
  virtual uint32_t reads() const { return ~0u; }
  /// Writes an output that has a place already, whatever its shape and placement.
  virtual bool shapes_follow_output() const { return false; }
  virtual bool is_collective() const { return false; }
  /// Work of it may be queued while a device captures a graph.
  virtual bool capturable() const { return true; }
  /// Of a collective, from local shapes: what one rank sends.
  virtual Wire wire(std::span<const TensorSpec> in_local, std::span<const TensorSpec> out_local,
                    const Mesh& mesh) const;

  /// Of one rank: local shapes.
  virtual Cost cost(std::span<const TensorSpec> in_local, std::span<const TensorSpec> out_local) const;
  virtual Bound bind(const BindContext& context) const = 0;
};

using OpPtr = std::shared_ptr<const Op>;

}  // namespace capstan
