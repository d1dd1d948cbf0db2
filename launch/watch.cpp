#include "launch/watch.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <fstream>

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

/// Whether a process of this host is a launcher of Open MPI.
bool is_launcher(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/comm", process));
  std::string name;
  std::getline(file, name);
  return name == "mpirun" || name == "mpiexec" || name == "orterun" || name == "prterun";
}

void rest(int tenths) {
  const timespec time{tenths / 10, tenths % 10 * 100'000'000L};
  nanosleep(&time, nullptr);
}

/// Whether it has ended within so many seconds.
bool ends_within(pid_t process, int seconds) {
  for (int turn = 0; turn < 5 * seconds; ++turn) {
    if (::kill(process, 0) != 0) return true;
    rest(2);
  }
  return false;
}

/// mpirun waits for its daemon on a host that is gone, for minutes or for ever. A process of its own, which holds none
/// of the job's pipes, gives it ten seconds and then ends it.
void leave_one_behind_for(pid_t launcher) {
  constexpr int kPatience = 10;
  const pid_t child = ::fork();
  if (child != 0) return;
  ::setsid();  // out of the group that the launcher kills
  ::close_range(0, ~0U, 0);
  if (!ends_within(launcher, kPatience)) ::kill(launcher, SIGKILL);  // asked to end, it crashes or waits on
  ::_exit(0);
}

HeartbeatVoice voice_of(int rank) {
  const pid_t parent = ::getppid();
  return {[rank](const std::string& text) { write_all(fmt::format("capstan[rank {}]: {}\n", rank, text)); },
          [launcher = is_launcher(parent) ? parent : 0] {
            if (launcher > 0) leave_one_behind_for(launcher);
            ::_exit(static_cast<int>(ExitCode::peer_lost));
          }};
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
