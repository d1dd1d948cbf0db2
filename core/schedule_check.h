#pragma once
// What is proved of a schedule before anything is planned by it, and what the plan learns from it: that it is complete,
// that it cannot stand still, how many microbatches are under way between two kinds of action, how long it takes when
// every action has a price.

#include <array>
#include <vector>

#include "core/schedule.h"

namespace capstan {

/// Throws Error(config) with a counterexample: an action that is missing, twice, of no chunk of its stage, out of order
/// (a microbatch's backward before its forward; weight gradients not in ascending order), or a ring of actions each of
/// which waits for the next. `capacity`: messages that fit between two chunks before the sender has to wait.
void check(const Schedule& schedule, int capacity);

/// The most microbatches of `chunk` for which action `from` has begun and `to` has not ended, at any time on its stage.
int under_way(const Schedule& schedule, int chunk, Action::Kind from, Action::Kind to);

/// Whether each `first` of this chunk is followed at once by `second` of the same microbatch.
bool together(const Schedule& schedule, int chunk, Action::Kind first, Action::Kind second);

/// Copies of a microbatch's inputs that a stage needs when it counts them round: the least n such that microbatch m is
/// finished on it before m + n begins.
int input_copies(const Schedule& schedule, int stage);

/// Time from the first action to the end of the last, and what the busiest stage works in it; prices by kind.
struct Makespan {
  double seconds = 0.0, busy = 0.0;
  double bubble() const { return seconds - busy; }
};
Makespan play(const Schedule& schedule, const std::array<double, 3>& price);

}  // namespace capstan
