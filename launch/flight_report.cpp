#include "launch/flight_report.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "core/error.h"
#include "launch/run_directory.h"
#include "parallel/hang_judge.h"
#include "parallel/heartbeat.h"
#include "parallel/heartbeat_addresses.h"

namespace capstan {
namespace {

constexpr double kSilence = 5;  // seconds; a record is looked after every second
constexpr int kMostRanks = 1 << 20;

double seconds(int64_t milliseconds) { return 1e-3 * static_cast<double>(std::max<int64_t>(milliseconds, 0)); }

/// Its process is on this host and has ended.
bool has_ended(const FlightFile& file) {
  return file.host == host_name() && file.pid > 0 && ::kill(file.pid, 0) != 0 && errno == ESRCH;
}

RankView view_of(const FlightFile& file, int64_t now) {
  RankView view;
  const bool stale = seconds(now - file.alive) > kSilence || has_ended(file);
  view.link = file.ended > 0 ? RankView::Link::left : stale ? RankView::Link::lost : RankView::Link::heard;
  view.position = file.position, view.host = file.host, view.pid = file.pid;
  view.still = seconds((stale ? file.alive : now) - file.moved);
  view.unheard = seconds(now - file.alive);
  return view;
}

std::string time_text(int64_t milliseconds) {
  const std::time_t when = milliseconds / 1000;
  std::tm parts{};
  localtime_r(&when, &parts);
  char text[32] = "";
  std::strftime(text, sizeof text, "%F %T", &parts);
  return text;
}

}  // namespace

std::string flight_report(const std::string& run_directory) {
  const std::filesystem::path flights = RunDirectory(run_directory).flights();
  const auto first = read_flight_file(flight_file(flights, 0));
  if (!first)
    throw Error::make(ExitCode::missing_input,
                      "{} holds no record of rank 0; wanted a run directory (run.dir) in which capstan train has run",
                      flights.string());
  const int64_t now = unix_milliseconds();
  int64_t alive = first->alive;
  bool running = false;
  std::vector<RankView> views(static_cast<size_t>(std::clamp(first->ranks, 1, kMostRanks)));
  for (size_t rank = 0; rank < views.size(); ++rank) {
    const auto file = read_flight_file(flight_file(flights, static_cast<int>(rank)));
    if (!file || file->ranks != first->ranks) continue;  // none, or of an earlier job
    views[rank] = view_of(*file, now);
    alive = std::max(alive, file->alive);
    running = running || views[rank].link == RankView::Link::heard;
  }
  return fmt::format("{} of {} rank{}, started {}; {}\n{}", running ? "a job" : "the last job", views.size(),
                     views.size() == 1 ? "" : "s", time_text(first->started),
                     running ? "it is running" : fmt::format("last seen {}", time_text(alive)),
                     position_table(views, kSilence));
}

}  // namespace capstan
