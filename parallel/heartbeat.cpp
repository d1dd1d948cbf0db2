#include "parallel/heartbeat.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cmath>
#include <fstream>
#include <thread>
#include <vector>

#include "core/error.h"
#include "parallel/heartbeat_hub.h"
#include "parallel/heartbeat_link.h"
#include "parallel/quiet_thread.h"

namespace capstan {

namespace asio = boost::asio;

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); }

constexpr double kGatherSeconds = 0.2;  // for fresh reports, once a rank is gone: the launcher leaves a second
constexpr double kPassOnSeconds = 0.2;  // for the command to end to be sent
constexpr double kLauncherSeconds = 5;  // what a launcher has to end the job when a rank is gone
constexpr double kAloneSeconds = 20;    // how much later a rank that no watcher ends does it itself
constexpr double kGoodbyeSeconds = 1;

/// Often enough that a stopped rank is told from a waiting one before the shortest limit is over.
double interval_for(double ceiling) { return std::isinf(ceiling) ? 1.0 : std::clamp(ceiling / 10, 0.05, 1.0); }

HeartbeatKeys agree_on_keys(Communicator& world) {
  HeartbeatKeys keys;
  if (world.rank() == 0 && getrandom(&keys, sizeof keys, 0) != static_cast<ssize_t>(sizeof keys))
    throw Error(ExitCode::internal, "the system gives no random bytes for the keys of heartbeats");
  world.broadcast(&keys, sizeof keys, 0);
  return keys;
}

/// The state letter of a process of this host, as in ps; 0 when there is no such process.
char state_of_process(int pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t end = text.rfind(')');
  return end == std::string::npos || end + 2 >= text.size() ? '\0' : text[end + 2];
}

}  // namespace

class Heartbeat::Monitor {
 public:
  Monitor(Communicator& world, FlightRecorder& recorder, std::filesystem::path flights, HeartbeatVoice voice);
  ~Monitor();

 private:
  void open_hub(const HeartbeatKeys& keys);
  void run() noexcept;
  asio::awaitable<void> beat();
  void look();
  void send_report(HeartbeatReport::Kind kind);
  void obey(HeartbeatCommand command);
  bool acting() const;
  void watch();
  asio::awaitable<void> tell_of_the_lost();
  asio::awaitable<void> end_all();
  asio::awaitable<void> part();
  std::vector<RankView> views() const;
  void complete(RankView& view, int rank) const;
  void say_hung(const std::vector<RankView>& views, const Verdict& verdict);
  asio::awaitable<void> pause(double seconds);

  asio::io_context context_{1};
  FlightRecorder& recorder_;
  std::filesystem::path flights_;
  HeartbeatVoice voice_;
  int rank_;
  double interval_, silence_;
  std::vector<std::string> hosts_;
  std::vector<int> watchers_;
  std::unique_ptr<HeartbeatHub> hub_;
  std::vector<std::unique_ptr<HeartbeatLink>> links_;
  uint64_t moves_ = 0;
  Clock::time_point moved_ = Clock::now(), beaten_ = Clock::now();
  std::vector<int> told_of_;  ///< lost ranks
  bool ending_ = false;
  std::thread thread_;
};

Heartbeat::Monitor::Monitor(Communicator& world, FlightRecorder& recorder, std::filesystem::path flights,
                            HeartbeatVoice voice)
    : recorder_(recorder),
      flights_(std::move(flights)),
      voice_(std::move(voice)),
      rank_(world.rank()),
      interval_(interval_for(recorder.limits().ceiling())),
      silence_(4 * interval_) {
  const HeartbeatKeys keys = agree_on_keys(world);
  hosts_ = gather_strings(world, host_identity());
  watchers_ = choose_watchers(hosts_);
  open_hub(keys);
  const bool one_host = std::all_of(hosts_.begin(), hosts_.end(), [&](const auto& host) { return host == hosts_[0]; });
  Endpoint own;
  if (hub_) own.port = hub_->port();
  if (hub_ && !one_host) own.addresses = own_addresses();
  const std::vector<std::string> endpoints = gather_strings(world, own.text());
  HeartbeatHello hello;
  hello.key = keys.of_ranks;
  hello.rank = rank_, hello.pid = ::getpid();
  copy_text(host_name(), hello.host.data(), hello.host.size());
  if (hub_) hub_->introduce(rank_, hello.pid, hello.host.data());
  for (const int watcher : watchers_) {
    if (watcher == rank_) continue;
    Endpoint endpoint = Endpoint::parse(endpoints[static_cast<size_t>(watcher)]);
    if (endpoint.port <= 0) continue;
    if (hosts_[static_cast<size_t>(watcher)] == hosts_[static_cast<size_t>(rank_)]) endpoint.addresses = {"127.0.0.1"};
    links_.push_back(std::make_unique<HeartbeatLink>(context_, std::move(endpoint), hello, keys.of_watchers,
                                                     [this](HeartbeatCommand command) { obey(command); }));
  }
  asio::co_spawn(context_, beat(), asio::detached);
  thread_ = quiet_thread([this] { run(); });
}

void Heartbeat::Monitor::open_hub(const HeartbeatKeys& keys) {
  if (std::find(watchers_.begin(), watchers_.end(), rank_) == watchers_.end()) return;
  const bool one_host = std::all_of(hosts_.begin(), hosts_.end(), [&](const auto& host) { return host == hosts_[0]; });
  try {
    hub_ = std::make_unique<HeartbeatHub>(context_, static_cast<int>(hosts_.size()), keys, one_host,
                                          recorder_.limits().ceiling(), [this] {
                                            if (acting()) asio::co_spawn(context_, tell_of_the_lost(), asio::detached);
                                          });
  } catch (const std::exception& error) {
    voice_.say(fmt::format("warning: rank {} cannot listen for heartbeats ({}); the next watcher takes its place",
                           rank_, error.what()));
  }
}

Heartbeat::Monitor::~Monitor() {
  asio::co_spawn(context_, part(), asio::detached);
  if (thread_.joinable()) thread_.join();
}

void Heartbeat::Monitor::run() noexcept {
  try {
    context_.run();
  } catch (const std::exception& error) {
    voice_.say(fmt::format("warning: the heartbeat of rank {} has ended: {}", rank_, error.what()));
  }
}

asio::awaitable<void> Heartbeat::Monitor::pause(double seconds) {
  asio::steady_timer timer(context_,
                           std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<void> Heartbeat::Monitor::beat() {
  for (;;) {
    look();
    send_report(HeartbeatReport::standing);
    if (hub_) recorder_.gpus().publish(summary_of(hub_->gpus()));
    if (hub_ && !ending_ && acting()) watch();
    const double ceiling = recorder_.limits().ceiling();
    if (!ending_ && seconds_since(moved_) > ceiling + kAloneSeconds) {
      voice_.say(fmt::format("rank {} has not moved for {:.0f} s, and no watcher has ended the job; it stands in: {}",
                             rank_, seconds_since(moved_), recorder_.position().describe()));
      voice_.end();
    }
    co_await pause(interval_);
  }
}

/// A beat that comes much too late says that this process, not the others, has stood still: it was stopped and goes on,
/// or its machine slept.
void Heartbeat::Monitor::look() {
  const bool slept = seconds_since(beaten_) > interval_ + std::max(2.0, silence_);
  beaten_ = Clock::now();
  const uint64_t moves = recorder_.moves();
  const bool moved = moves != moves_;
  if (moved || slept) moved_ = Clock::now();
  moves_ = moves;
  if (slept && hub_) hub_->forgive();
  recorder_.looked(moved);
}

void Heartbeat::Monitor::send_report(HeartbeatReport::Kind kind) {
  HeartbeatReport report;
  report.kind = kind;
  report.position = recorder_.position();
  report.still = seconds_since(moved_);
  report.limit = recorder_.limits().of(report.position.phase);
  report.gpu = recorder_.gpus().own();
  for (const auto& link : links_) kind == HeartbeatReport::goodbye ? link->leave(report) : link->send(report);
  if (hub_) hub_->note(rank_, report);
}

void Heartbeat::Monitor::obey(HeartbeatCommand command) {
  if (command.kind == HeartbeatCommand::report_now) {
    look();
    send_report(HeartbeatReport::standing);
  } else if (command.kind == HeartbeatCommand::end) {
    voice_.end();
  }
}

/// Whether all watchers below this rank are gone, silent or done.
bool Heartbeat::Monitor::acting() const {
  const std::vector<RankView> views = hub_->views();
  for (const int watcher : watchers_) {
    if (watcher == rank_) return true;
    const RankView& view = views[static_cast<size_t>(watcher)];
    if (view.there() && !view.silent(silence_)) return false;
  }
  return false;
}

std::vector<RankView> Heartbeat::Monitor::views() const {
  std::vector<RankView> views = hub_->views();
  for (size_t rank = 0; rank < views.size(); ++rank)
    if (views[rank].link != RankView::Link::left && views[rank].silent(silence_))
      complete(views[rank], static_cast<int>(rank));
  return views;
}

/// What this host knows of a rank of its own that does not answer: the state of its process and its mapped record.
void Heartbeat::Monitor::complete(RankView& view, int rank) const {
  if (hosts_[static_cast<size_t>(rank)] != hosts_[static_cast<size_t>(rank_)]) return;
  const auto record = read_flight_file(flight_file(flights_, rank));
  if (record && (view.pid == 0 || record->pid == view.pid)) view.position = record->position, view.pid = record->pid;
  if (view.pid == 0) return;
  const char state = state_of_process(view.pid);
  if (state == 'T' || state == 't') view.condition = "stopped by a signal";
  if (state == 'D') view.condition = "waits for a disk";
  if (state == '\0' && view.there()) view.condition = "no such process";
}

void Heartbeat::Monitor::watch() {
  const std::vector<RankView> all = views();
  const Verdict verdict = judge(all, silence_);
  // A launcher that does not end the job when a rank dies leaves the others waiting.
  const bool orphaned = hub_->since_lost().value_or(0) > kLauncherSeconds && verdict.still > kLauncherSeconds;
  if (!verdict.hung && !orphaned) return;
  ending_ = true;
  if (verdict.hung)
    say_hung(all, verdict);
  else
    voice_.say("the launcher has not ended the job: ending it");
  asio::co_spawn(context_, end_all(), asio::detached);
}

void Heartbeat::Monitor::say_hung(const std::vector<RankView>& all, const Verdict& verdict) {
  const std::string others = what_others_wait_for(all, silence_);
  std::string text = fmt::format("nothing has moved for {:.1f} s (limit {:.1f} s)", verdict.still, verdict.limit);
  if (verdict.late.empty()) {
    const bool on_devices = std::any_of(all.begin(), all.end(), [](const RankView& rank) {
      return rank.there() && rank.position.place != FlightPlace::host;
    });
    text +=
        fmt::format(": all ranks wait for each other in collectives; a network that delivers nothing{} looks like this",
                    on_devices ? ", or a GPU that stopped amid a stretch of them," : "");
  } else {
    const RankView& first = all[static_cast<size_t>(verdict.late[0])];
    text += fmt::format(": {} {}", who(all, verdict.late),
                        first.silent(silence_) ? "does not answer" : "stands still while the others wait");
    text += fmt::format(", in {}", first.position.describe());
  }
  if (!others.empty()) text += "; " + others;
  voice_.say(text + "\n" + position_table(all, silence_) +
             "  The limit is learnt from the run and at most train.hang_seconds. The job ends with code 76; the same "
             "command goes on from the last checkpoint.");
}

asio::awaitable<void> Heartbeat::Monitor::end_all() {
  hub_->command(HeartbeatCommand::end);
  co_await pause(kPassOnSeconds);
  voice_.end();
}

asio::awaitable<void> Heartbeat::Monitor::tell_of_the_lost() {
  hub_->command(HeartbeatCommand::report_now);
  co_await pause(kGatherSeconds);
  look();
  send_report(HeartbeatReport::standing);
  const std::vector<RankView> all = views();
  const std::vector<int> lost = lost_ranks(all);
  if (lost.empty() || lost == told_of_ || ending_) co_return;
  told_of_ = lost;
  const std::string others = what_others_wait_for(all, silence_);
  voice_.say(
      fmt::format("{} {} gone: killed or crashed, without a goodbye{}\n{}  capstan doctor --run DIR shows this "
                  "table again; the same command goes on from the last checkpoint.",
                  who(all, lost), lost.size() == 1 ? "is" : "are", others.empty() ? "" : "; " + others,
                  position_table(all, silence_)));
}

asio::awaitable<void> Heartbeat::Monitor::part() {
  ending_ = true;
  look();
  send_report(HeartbeatReport::goodbye);
  const auto begun = Clock::now();
  constexpr double kTurn = 0.001;
  const auto idle = [&] { return std::all_of(links_.begin(), links_.end(), [](const auto& l) { return l->idle(); }); };
  while (!idle() && seconds_since(begun) < kGoodbyeSeconds) co_await pause(kTurn);
  context_.stop();
}

Heartbeat::Heartbeat(Communicator& world, FlightRecorder& recorder, std::filesystem::path flights, HeartbeatVoice voice)
    : monitor_(std::make_unique<Monitor>(world, recorder, std::move(flights), std::move(voice))) {}
Heartbeat::~Heartbeat() = default;

std::filesystem::path flight_file(const std::filesystem::path& directory, int rank) {
  return directory / fmt::format("rank-{}", rank);
}

}  // namespace capstan
