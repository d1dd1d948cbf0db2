#pragma once
// Windows: state that is whole only while its unit (a layer, an embedding, the head) is at work: ZeRO 2 and 3. A window
// is a persistent run of memory that units use in turn. This pass inserts
//  - for the nodes of a part that read a unit's parameters: a cast of this rank's pieces of the masters and an
//    all-gather into the unit's window (ZeRO 3), again after another unit has used the window. They stand where the
//    window has become free, one unit ahead, so that they travel while that one is at work;
//  - before the first contribution to a unit's gradients in a part: zeros; after the last one: a reduce-scatter, and
//  one
//    unit later the sum of this rank's piece with those of the microbatches before (ZeRO 2 and 3).
// It runs after recomputation, which reads parameters a second time.

#include <vector>

#include "core/flat_layout.h"
#include "core/persistent.h"
#include "core/tape.h"

namespace capstan {

struct WindowPlan {
  const PersistentSpace* space = nullptr;
  const FlatLayout* layout = nullptr;
  std::vector<int> run_of_gradient;  ///< by persistent tensor: the run whose gradients it views in a window, or -1
  std::vector<int> run_of_working;   ///< by persistent tensor: the run whose parameters it views in a window, or -1
  std::vector<int> window_of_unit;   ///< of parameters
  DType working = DType::f32;
};

void open_windows(Tape& tape, const WindowPlan& plan);

}  // namespace capstan
