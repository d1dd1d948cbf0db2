#include "launch/job_end.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "core/error.h"

namespace capstan {
namespace {

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

}  // namespace

void say_past_locks(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

int launcher_of_this_process() {
  const pid_t parent = ::getppid();
  return is_launcher(parent) ? parent : 0;
}

void leave_job(int launcher) {
  if (launcher > 0) leave_one_behind_for(launcher);
  ::_exit(static_cast<int>(ExitCode::peer_lost));
}

}  // namespace capstan
