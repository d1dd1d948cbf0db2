#include "core/failpoint.h"

#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"

namespace capstan::detail {
namespace {

struct Failpoint {
  std::string name;
  long at = 1;
  std::string action;
  long hits = 0;
};

struct Table {
  std::mutex mutex;
  std::vector<Failpoint> points;
};

std::string own_rank() {
  for (const char* variable : {"CAPSTAN_RANK", "OMPI_COMM_WORLD_RANK"})
    if (const char* value = std::getenv(variable)) return value;
  return "0";
}

Failpoint parse(const std::string& text) {
  const size_t first = text.find(':'), second = text.find(':', first + 1);
  if (first == std::string::npos || second == std::string::npos)
    throw Error::make(ExitCode::usage, "CAPSTAN_FAIL: wanted name:k:action, got '{}'", text);
  return {text.substr(0, first), std::atol(text.substr(first + 1, second - first - 1).c_str()),
          text.substr(second + 1)};
}

void add_all(Table& table, const std::string& list) {
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    Failpoint point = parse(list.substr(begin, end - begin));
    const size_t at = point.action.find('@');
    const bool mine = at == std::string::npos || point.action.substr(at + 1) == own_rank();
    if (at != std::string::npos) point.action.resize(at);
    if (mine) table.points.push_back(point);
    begin = end + 1;
  }
}

Table& table() {
  static Table instance;
  static const bool filled = [] {
    if (const char* list = std::getenv("CAPSTAN_FAIL")) add_all(instance, list);
    return true;
  }();
  (void)filled;
  return instance;
}

bool act(const Failpoint& point) {
  if (point.action == "kill") raise(SIGKILL);
  if (point.action == "term") raise(SIGTERM);
  if (point.action == "usr1") raise(SIGUSR1);
  if (point.action == "stop") raise(SIGSTOP);
  if (point.action == "exit") _exit(1);
  if (point.action == "sleep") {
    timespec second{1, 0};
    nanosleep(&second, nullptr);
  }
  if (point.action == "throw") throw Error::make(ExitCode::io_error, "failpoint {} fired", point.name);
  return point.action == "nan" || point.action == "enospc";
}

}  // namespace

bool failpoints_enabled() {
  static const bool enabled = std::getenv("CAPSTAN_FAIL") != nullptr;
  return enabled;
}

bool failpoint_hit(std::string_view name) {
  Table& t = table();
  bool fired = false;
  Failpoint due;
  {
    std::lock_guard lock(t.mutex);
    for (Failpoint& point : t.points)
      if (point.name == name && ++point.hits == point.at) fired = true, due = point;
  }
  return fired && act(due);
}

}  // namespace capstan::detail
