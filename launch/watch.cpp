#include "launch/watch.h"

#include <unistd.h>

#include "core/error.h"
#include "launch/run_directory.h"

namespace capstan {
namespace {

/// Straight to the descriptor: the stream may be locked by a thread that is stuck.
void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

HeartbeatVoice voice_of(int rank) {
  return {[rank](const std::string& text) { write_all(fmt::format("capstan[rank {}]: {}\n", rank, text)); },
          [] { ::_exit(static_cast<int>(ExitCode::peer_lost)); }};
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
  return options;
}

}  // namespace capstan
