#pragma once
// BackgroundSave: a checkpoint that is written while training goes on. Training waits only while this rank's slices are
// copied; a thread of its own then writes the copy and talks to no other rank; that all have written is agreed in a
// later step's own reduction, and commit() makes the checkpoint true on all ranks together. One save at a time.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/training_program.h"
#include "io/checkpoint/save.h"

namespace capstan {

class BackgroundSave {
 public:
  /// The communicator is used by start() and commit() only, on the caller's thread.
  explicit BackgroundSave(Communicator& world) : group_(world) {}
  /// Waits for the thread; what it wrote stays a .partial, which the next save clears away.
  ~BackgroundSave();

  /// Collective. Throws Error as CheckpointSave does; no save may be under way.
  void start(const std::filesystem::path& directory, uint64_t step, const TrainingProgram& training,
             std::string state_json);
  bool under_way() const { return save_ != nullptr; }
  /// Whether this rank's thread still writes.
  bool writing() const { return under_way() && !written_.load(std::memory_order_acquire); }
  /// Collective: waits for the thread and publishes. Throws Error on all ranks when any of them could not write.
  SaveResult commit(int keep);

  /// What the copy of this rank's slices takes from the first save on.
  static size_t copy_bytes(const TrainingProgram& training);

 private:
  void copy(const Program& program, std::vector<Slice>& slices, size_t element_bytes);

  CommunicatorGroup group_;
  std::vector<char> copy_;
  std::unique_ptr<CheckpointSave> save_;
  std::thread thread_;
  std::atomic<bool> written_{false};
};

}  // namespace capstan
