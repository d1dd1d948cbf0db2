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

}  // namespace

Watch::Watch(const RunConfig& config, Communicator& world)
    : recorder_(world.rank(), world.size(), config.train.hang_seconds),
      watched_(world, recorder_),
      heartbeat_(watched_, recorder_, RunDirectory(config.run.dir).flights(), voice_of(world.rank())) {}

MpiOptions mpi_options(const RunConfig& config) {
  constexpr double kLater = 60;
  MpiOptions options;
  options.hang_seconds = config.train.hang_seconds > 0 ? config.train.hang_seconds + kLater : 0;
  options.start_seconds = config.train.start_seconds;
  return options;
}

}  // namespace capstan
