#pragma once
// Heartbeat: a thread beside the run that calls neither MPI nor any file library. It tells a few ranks, the watchers,
// where this rank stands, over TCP connections of its own; the lowest watcher that lives judges over all ranks, and
// when nothing moves says in one table who is late, at what, and who waits, and ends the job on all of them. When a
// rank is gone (killed, crashed) it writes the same table at once, in the second that the launcher leaves.
// The clever thing: every rank reports to all watchers all the time, so that a watcher that is itself stopped or lost
// is followed by the next without any agreement.
// Rule: made and destroyed on the thread that communicates, made by all ranks together; say and end are called on the
// heartbeat's thread.

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "core/communicator.h"
#include "parallel/flight_recorder.h"

namespace capstan {

/// What a library may not do by itself.
struct HeartbeatVoice {
  std::function<void(const std::string&)> say;  ///< prints a message with its table
  std::function<void()> end;                    ///< ends this process with the code of a lost peer
};

class Heartbeat {
 public:
  /// Collective. flights: where the ranks' records lie, to look up the last position of a rank of this host that does
  /// not answer; may not exist.
  Heartbeat(Communicator& world, FlightRecorder& recorder, std::filesystem::path flights, HeartbeatVoice voice);
  ~Heartbeat();  ///< says goodbye
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

 private:
  class Monitor;
  std::unique_ptr<Monitor> monitor_;
};

/// File of a rank's record in a directory of them.
std::filesystem::path flight_file(const std::filesystem::path& directory, int rank);

}  // namespace capstan
