#include "launch/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "core/error.h"
#include "io/file_system.h"

namespace capstan {
namespace {

/// After fork(): nothing here allocates.
[[noreturn]] void become(char* const* arguments, int log, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGUSR1);
  const int nothing = ::open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(127);
  if (getppid() != parent) _exit(127);  // it died before it could be watched
  execvp(arguments[0], arguments);
  _exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command, const std::filesystem::path& log) {
  const FileDescriptor file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!file.valid())
    throw Error::make(ExitCode::cannot_create, "cannot create {}: {}", log.string(), std::strerror(errno));
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) become(arguments.data(), file.get(), parent);
  if (pid_ < 0) throw Error::make(ExitCode::cannot_create, "cannot start {}: {}", command[0], std::strerror(errno));
}

ChildProcess::~ChildProcess() {
  if (pid_ <= 0) return;
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  return *this;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

std::optional<int> ChildProcess::ended() {
  if (pid_ <= 0) return 0;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return {};
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void ChildProcess::ask_to_stop() const {
  if (pid_ > 0) kill(pid_, SIGUSR1);
}

std::string last_words(const std::filesystem::path& log) {
  constexpr std::streamoff kTail = 8192;
  std::ifstream in(log, std::ios::binary | std::ios::ate);
  const std::streamoff size = in ? static_cast<std::streamoff>(in.tellg()) : 0;
  in.seekg(std::max<std::streamoff>(0, size - kTail));
  std::string line, last, error;
  while (std::getline(in, line)) {
    std::replace_if(
        line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    if (line.find_first_not_of(' ') != std::string::npos) last = line;
    if (line.find("error:") != std::string::npos) error = line;
  }
  if (error.empty()) error = last;
  if (const size_t at = error.find("error: "); at != std::string::npos) error = error.substr(at + 7);
  return error.substr(0, 160);
}

std::string exit_text(int code) {
  if (code > 128 && code < 128 + 65) return fmt::format("killed by signal {} ({})", code - 128, strsignal(code - 128));
  return fmt::format("exit code {}", code);
}

}  // namespace capstan
