#pragma once
// A program started by a sweep: its output goes to a file, it is in a process group of its own (Ctrl-C at the terminal
// reaches the sweep alone, which then asks its children to checkpoint), and it is asked to stop when the sweep dies.

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace capstan {

class ChildProcess {
 public:
  /// `log` is appended to. Error cannot_create where it cannot be started.
  ChildProcess(const std::vector<std::string>& command, const std::filesystem::path& log);
  ~ChildProcess();  ///< ends what still runs
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;

  /// Its exit code once it has ended (128 + signal where it was killed).
  std::optional<int> ended();
  /// SIGUSR1, which both capstan train and mpirun turn into a checkpoint.
  void ask_to_stop() const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

/// The last line of a log that says error, or else its last line.
std::string last_words(const std::filesystem::path& log);
/// "killed by signal 9 (Killed)", "exit code 79"
std::string exit_text(int code);

}  // namespace capstan
