#pragma once
// Watch: what looks after a training job on this rank while it runs: the flight recorder (where this rank stands) and
// the heartbeat (where all of them stand, and what to do when nothing moves). It is the part that prints and exits: the
// communicating thread may be stuck in a call for ever, so a job that hangs is ended from the heartbeat's thread, at
// once, with exit code 76.
// Rule: made after the config is known and before anything else that communicates; destroyed after it.

#include "core/config/run_config.h"
#include "parallel/flight_recorder.h"
#include "parallel/heartbeat.h"
#include "parallel/mpi_session.h"
#include "parallel/watched_communicator.h"

namespace capstan {

class Watch {
 public:
  Watch(const RunConfig& config, Communicator& world);

  Communicator& world() { return watched_; }
  FlightRecorder& recorder() { return recorder_; }

 private:
  FlightRecorder recorder_;
  WatchedCommunicator watched_;
  Heartbeat heartbeat_;
};

/// Waits over shared memory that end a job by themselves, later than the watch would: the net below it. And how long
/// ranks may take to come, before the watch is there: train.start_seconds.
MpiOptions mpi_options(const RunConfig& config);

}  // namespace capstan
