#pragma once
// PersistentSpace: the tensors that outlive a step and are shared by all plans of a Program: parameters, gradients,
// moments, inputs, scalars, caches. A tensor may be a view: a run of a flat parent, so that the gradients of all
// parameters are one buffer that one collective reduces, while each keeps its name. Offsets are in bytes; address(i)
// is valid once the Program has allocated its arena.

#include <map>
#include <string>
#include <vector>

#include "core/tape.h"

namespace capstan {

struct PersistentTensor {
  std::string name;
  TensorSpec spec;
  Purpose purpose = Purpose::parameter;
  int parent = -1;    ///< view into this one, or -1
  size_t offset = 0;  ///< bytes from the start of the persistent arena (set by lay_out for non-views)
  size_t bytes = 0;   ///< of this rank, one copy
  int copies = 1;     ///< microbatch m uses copy m % copies; 0: not held by this rank
  size_t stride = 0;  ///< from one copy to the next (set by lay_out)
  size_t offset_in_parent = 0;
  bool own_piece = false;  ///< a view that lies elsewhere on each rank
};

class PersistentSpace {
 public:
  explicit PersistentSpace(const Mesh& mesh) : mesh_(mesh) {}

  /// Adds a tensor of its own. Throws Error(internal) when the name is taken.
  int add(const std::string& name, const TensorSpec& spec, Purpose purpose, int copies = 1);
  /// Declares a tensor that this rank does not hold: it can be recorded, not planned.
  int add_absent(const std::string& name, const TensorSpec& spec, Purpose purpose);
  /// Adds a named view of `parent`, `offset` bytes from its start; must lie inside it.
  int add_view(const std::string& name, const TensorSpec& spec, int parent, size_t offset);
  /// A view of this rank's piece, for collectives in place: plans of ranks are equal but for where it lies.
  int add_own_piece(const std::string& name, const TensorSpec& spec, int parent, size_t offset);
  int find(const std::string& name) const;  ///< -1 when there is none
  const PersistentTensor& at(int index) const { return tensors_[static_cast<size_t>(index)]; }
  const std::vector<PersistentTensor>& all() const { return tensors_; }

  /// Gives every tensor its offset; `guard` bytes are left after each (tests fill them with a pattern).
  void lay_out(size_t guard);
  size_t bytes() const { return bytes_; }
  /// Of copy 0.
  size_t offset(int index) const;
  /// What a tensor lies in, itself where it is no view, and how many bytes from its start.
  struct Root {
    int index = -1;
    size_t begin = 0;
  };
  Root root(int index) const;

 private:
  Mesh mesh_;
  std::vector<PersistentTensor> tensors_;
  std::map<std::string, int> names_;
  size_t bytes_ = 0;
};

constexpr size_t kAlignment = 64;
constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace capstan
