#include "launch/console.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "io/printable.h"

namespace capstan {
namespace {
constexpr std::chrono::milliseconds kOnTerminal{100}, kElsewhere{5000};

/// mpirun gives its ranks a pseudo-terminal whatever its own output is; what counts is where the launcher writes.
bool launcher_on_terminal() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return true;
  struct stat out {};
  if (stat(fmt::format("/proc/{}/fd/1", getppid()).c_str(), &out) != 0) return true;  // not ours to see
  constexpr unsigned kMemoryDevices = 1;                                              // /dev/null and its like
  return S_ISCHR(out.st_mode) && major(out.st_rdev) != kMemoryDevices;
}

/// TERM=dumb says that nobody rewrites lines.
bool on_terminal() {
  const char* term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && term != nullptr && std::strcmp(term, "dumb") != 0 && launcher_on_terminal();
}

}  // namespace

Console::Console(bool speaks) : speaks_(speaks), terminal_(on_terminal()) {}

Console::~Console() {
  if (open_) std::fputc('\n', stdout);
}

void Console::say(const std::string& line) {
  if (!speaks_) return;
  if (open_) std::fputc('\n', stdout);
  open_ = false;
  std::fprintf(stdout, "%s\n", without_controls(line).c_str());
  std::fflush(stdout);
}

void Console::progress(const std::string& line, bool last) {
  if (!speaks_) return;
  const auto now = std::chrono::steady_clock::now();
  if (!last && now - printed_ < (terminal_ ? kOnTerminal : kElsewhere)) return;
  printed_ = now;
  std::fprintf(stdout, terminal_ ? "\r\x1b[K%s" : "%s\n", line.c_str());
  open_ = terminal_;
  if (last && open_) std::fputc('\n', stdout), open_ = false;
  std::fflush(stdout);
}

std::string duration_text(double seconds) {
  const long s = static_cast<long>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

std::string bytes_text(double bytes) {
  const char* unit = "B";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (bytes < 1024) break;
    bytes /= 1024, unit = next;
  }
  return fmt::format("{:.4g} {}", bytes, unit);
}

}  // namespace capstan
