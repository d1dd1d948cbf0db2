#include "launch/watch.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/job_end.h"
#include "launch/run_directory.h"

namespace capstan {
namespace {

HeartbeatVoice voice_of(int rank) {
  return {[rank](const std::string& text) { say_past_locks(fmt::format("capstan[rank {}]: {}\n", rank, text)); },
          [launcher = launcher_of_this_process()] { leave_job(launcher); }};
}

/// Ranks may come one after another, however short the steps of this run are.
double start_seconds(double hang_seconds) {
  constexpr double kLeast = 10;
  if (hang_seconds == TrainConfig{}.hang_seconds) return MpiOptions{}.start_seconds;
  return hang_seconds > 0 ? std::max(hang_seconds, kLeast) : 0;
}

}  // namespace

Watch::Watch(const RunConfig& config, Communicator& world)
    : recorder_(world.rank(), world.size(), config.train.hang_seconds),
      watched_(world, recorder_),
      heartbeat_(watched_, recorder_, RunDirectory(config.run.dir).flights(), voice_of(world.rank())) {}

MpiOptions mpi_options(const RunConfig& config) {
  constexpr double kLater = 60;
  MpiOptions options;
  options.hang_seconds = config.train.hang_seconds > 0 ? config.train.hang_seconds + kLater : 0;
  options.start_seconds = start_seconds(config.train.hang_seconds);
  return options;
}

}  // namespace capstan
