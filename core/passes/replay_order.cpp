#include "core/passes/replay_order.h"

#include "core/error.h"
#include "core/schedule_check.h"

namespace capstan {
namespace {

Action::Kind kind_of(Part part) {
  CAPSTAN_CHECK(part == Part::forward || part == Part::backward || part == Part::weights, "part {} is in no schedule",
                name_of(part));
  return part == Part::forward    ? Action::Kind::forward
         : part == Part::backward ? Action::Kind::backward
                                  : Action::Kind::weights;
}

}  // namespace

int ReplayOrder::group(Part part, int chunk) const {
  constexpr int kParts = 8;
  const int own = chunk * kParts + static_cast<int>(part);
  if (part != Part::backward && part != Part::weights) return own;
  const Part before = part == Part::weights ? Part::backward : Part::forward;
  return !schedule_ || together(*schedule_, chunk, kind_of(before), kind_of(part)) ? group(before, chunk) : own;
}

int ReplayOrder::slots(Part made, Part read, int chunk) const {
  const bool weights = schedule_->splits_weights;
  return under_way(*schedule_, chunk, kind_of(made), weights ? kind_of(read) : Action::Kind::backward);
}

}  // namespace capstan
