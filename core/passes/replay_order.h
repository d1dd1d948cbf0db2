#pragma once
// ReplayOrder: what the memory pass knows of a schedule. Parts of one group always run one after another for one
// microbatch, so that their tensors can share memory by lifetime; between groups other microbatches may come.

#include <memory>

#include "core/schedule.h"
#include "core/tape.h"

namespace capstan {

class ReplayOrder {
 public:
  /// Forward, backward and weights of a microbatch follow each other.
  ReplayOrder() = default;
  explicit ReplayOrder(const Schedule& schedule) : schedule_(std::make_shared<Schedule>(schedule)) {}

  int group(Part part, int chunk) const;
  /// Microbatches that are under way at most between the beginning of part `made` and the end of part `read`.
  int slots(Part made, Part read, int chunk) const;

 private:
  std::shared_ptr<const Schedule> schedule_;  ///< null: see the default
};

}  // namespace capstan
