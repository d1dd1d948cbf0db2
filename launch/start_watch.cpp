#include "launch/start_watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <system_error>

#include "launch/job_end.h"
#include "parallel/quiet_thread.h"

namespace capstan {
namespace {

constexpr std::array kRanks{"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
/// Those that only a launcher of ranks sets: a script of sbatch has the last one too, and no size.
constexpr std::array kLaunchersRanks{kRanks[0], kRanks[1], kRanks[2]};
constexpr std::array kSizes{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};

std::optional<int> plain_number(std::string_view text) {
  int number = -1;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  return read.ec == std::errc() && read.ptr == text.data() + text.size() && number >= 0 ? std::optional(number)
                                                                                        : std::nullopt;
}

template <size_t N>
int first_number(const std::array<const char*, N>& names, int otherwise) {
  for (const char* name : names)
    if (const char* text = std::getenv(name))
      if (const auto number = plain_number(text)) return *number;
  return otherwise;
}

/// What a rank of this host is doing when it is not where it should be.
struct Sibling {
  bool there = false;  ///< one of its processes runs this program, and runs
  std::string found;   ///< "process 12, sh, stopped by a signal" of one that does not
};

/// The state letter of a process: the first field behind its name, which may hold anything.
char state_of(const std::filesystem::path& process) {
  std::ifstream file(process / "stat");
  std::string line;
  std::getline(file, line);
  const size_t end = line.rfind(')');
  return end != std::string::npos && end + 2 < line.size() ? line[end + 2] : '?';
}

std::string program_of(const std::filesystem::path& process) {
  std::error_code ignored;
  return std::filesystem::read_symlink(process / "exe", ignored).string();
}

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The rank that a process of this job is by its environment ("A=b\0C=d\0").
std::optional<int> rank_in(const std::string& environment, const std::string& job) {
  const auto value_of = [&](const std::string& start) -> std::optional<std::string_view> {
    const size_t at = ('\0' + environment).find('\0' + start);
    if (at == std::string::npos) return std::nullopt;
    const size_t from = at + start.size();
    return std::string_view(environment).substr(from, environment.find('\0', from) - from);
  };
  if (const auto rest = value_of(job); !rest || !rest->empty()) return std::nullopt;
  for (const char* name : kRanks)
    if (const auto text = value_of(std::string(name) + "=")) return plain_number(*text);
  return std::nullopt;
}

/// The ranks of this job on this host, from what the system knows of their processes.
std::map<int, Sibling> ranks_here(const std::string& job) {
  std::map<int, Sibling> ranks;
  const std::string program = program_of("/proc/self");
  std::error_code error;
  for (std::filesystem::directory_iterator at("/proc", error), end; !error && at != end; at.increment(error)) {
    const std::filesystem::path process = at->path();
    if (!plain_number(process.filename().string())) continue;
    const auto rank = rank_in(file_text(process / "environ"), job);
    if (!rank) continue;
    Sibling& sibling = ranks[*rank];
    const std::string runs = program_of(process);
    const char state = state_of(process);
    const bool stopped = state == 'T' || state == 't';
    if (runs == program && !stopped) sibling.there = true;
    if (runs == program && !stopped && state != 'D') continue;
    sibling.found = fmt::format("process {}, {}{}", process.filename().string(),
                                runs == program ? "this program" : std::filesystem::path(runs).filename().string(),
                                stopped        ? ", stopped by a signal"
                                : state == 'D' ? ", waiting for a file system or a device"
                                               : ", which has not started this program");
  }
  return ranks;
}

struct Absent {
  std::string ranks;   ///< "rank 1 (process 12, sh, stopped by a signal)"; a few, and how many have no process
  bool first = false;  ///< this rank is the lowest of the host that could say so
};

Absent absent_here(const LaunchedAs& own) {
  constexpr int kNamed = 8;
  Absent absent;
  if (own.job.empty()) return absent;
  const std::map<int, Sibling> ranks = ranks_here(own.job);
  int count = 0;
  for (const auto& [rank, sibling] : ranks)
    if (!sibling.there && ++count <= kNamed)
      absent.ranks += fmt::format("{}rank {} ({})", count == 1 ? "" : ", ", rank, sibling.found);
  if (count > kNamed) absent.ranks += fmt::format(" and {} more", count - kNamed);
  if (const int missing = own.ranks_here - static_cast<int>(ranks.size()); missing > 0)
    absent.ranks +=
        fmt::format("{}{} of {} ranks without a process", absent.ranks.empty() ? "" : ", ", missing, own.ranks_here);
  const auto lowest = std::find_if(ranks.begin(), ranks.end(), [](const auto& rank) { return rank.second.there; });
  absent.first = lowest != ranks.end() && lowest->first == own.rank;
  return absent;
}

std::string own_host() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

LaunchedAs launched_as() {
  LaunchedAs own;
  own.rank = first_number(kRanks, -1);
  own.ranks = first_number(kSizes, 0);
  if (own.ranks == 0 && first_number(kLaunchersRanks, -1) < 0) own.rank = -1;
  own.ranks_here = first_number(std::array{"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"}, 0);
  for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID", "SLURM_JOB_ID"})
    if (const char* value = std::getenv(name); value && own.job.empty()) own.job = fmt::format("{}={}", name, value);
  return own;
}

StartWatch::StartWatch(double seconds) : seconds_(seconds), own_(launched_as()) {
  if (!own_.waits_for_others() || seconds_ <= 0) return;
  launcher_ = launcher_of_this_process();
  thread_ = quiet_thread([this] { run(); });
}

StartWatch::~StartWatch() { over(); }

void StartWatch::goes_on(const std::string& where) {
  const std::lock_guard lock(mutex_);
  where_ = where;
}

void StartWatch::over() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool StartWatch::over_within(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return over_; });
}

void StartWatch::run() {
  constexpr double kTurn = 1.0, kAsleep = 5.0;
  using Clock = std::chrono::steady_clock;
  double waited = 0;  // what this process was stopped or suspended itself does not count
  for (auto last = Clock::now(); waited < seconds_;) {
    if (over_within(std::min(kTurn, seconds_ - waited))) return;
    const auto now = Clock::now();
    waited += std::min(std::chrono::duration<double>(now - last).count(), kAsleep);
    last = now;
  }
  const Absent absent = absent_here(own_);
  const double patience = !absent.ranks.empty() && absent.first ? 0.0 : own_.rank == 0 ? 2.0 : 4.0;
  if (over_within(patience)) return;  // all may have come while the processes were looked at
  say_past_locks(text(waited, absent.ranks));
  leave_job(launcher_);
}

std::string StartWatch::text(double waited, const std::string& absent) {
  const std::lock_guard lock(mutex_);
  return fmt::format(
      "capstan[rank {0}]: not all{1} ranks have come in {2:.1f} s: rank {0} on {3} (process {4}) still waits {5}; {6}\n"
      "  A rank that does not come is stopped, held up by a file system, or on a host that is down or off the network: "
      "look there first.\n"
      "  The job ends with code 76. The limit of capstan train is train.start_seconds (0: none); other verbs have none "
      "to "
      "set.\n",
      own_.rank, own_.ranks > 0 ? fmt::format(" {}", own_.ranks) : "", waited, own_host(), ::getpid(), where_,
      absent.empty() ? "all ranks of this host are there, so it is another host's"
                     : "of this host has not come: " + absent);
}

}  // namespace capstan
