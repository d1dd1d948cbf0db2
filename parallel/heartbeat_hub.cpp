#include "parallel/heartbeat_hub.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cmath>

namespace capstan {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

constexpr std::chrono::seconds kHelloTime{5};
constexpr size_t kMostStrangers = 4096;

void allow_descriptors(size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min<rlim_t>(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

tcp::acceptor listen_on(asio::io_context& context, const tcp::endpoint& endpoint) {
  tcp::acceptor acceptor(context);
  acceptor.open(endpoint.protocol());
  if (endpoint.protocol() == tcp::v6()) acceptor.set_option(asio::ip::v6_only(false));
  acceptor.bind(endpoint);
  acceptor.listen();
  return acceptor;
}

tcp::acceptor listen_anywhere(asio::io_context& context, bool loopback_only) {
  if (loopback_only) return listen_on(context, {asio::ip::address_v4::loopback(), 0});
  try {
    return listen_on(context, {tcp::v6(), 0});  // both kinds
  } catch (const boost::system::system_error&) {
    return listen_on(context, {tcp::v4(), 0});
  }
}

bool equal_in_constant_time(const HeartbeatKey& a, const HeartbeatKey& b) {
  uint8_t different = 0;
  for (size_t i = 0; i < a.size(); ++i) different |= static_cast<uint8_t>(a[i] ^ b[i]);
  return different == 0;
}

bool sound(const HeartbeatReport& report) {
  const bool kind = report.kind == HeartbeatReport::standing || report.kind == HeartbeatReport::goodbye;
  return kind && is_sound(report.position) && is_sound(report.gpu) && report.still >= 0 && !std::isnan(report.limit);
}

HeartbeatHub::Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<HeartbeatHub::Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

struct HeartbeatHub::Session {
  explicit Session(tcp::socket taken) : socket(std::move(taken)) {}
  tcp::socket socket;
  HeartbeatHello hello;
  HeartbeatCommand command;
  bool writing = false, goodbye = false;
};

HeartbeatHub::HeartbeatHub(asio::io_context& context, int ranks, const HeartbeatKeys& keys, bool loopback_only,
                           double unheard_limit, std::function<void()> on_lost)
    : context_(context),
      acceptor_(listen_anywhere(context, loopback_only)),
      keys_(keys),
      seen_(static_cast<size_t>(ranks)),
      on_lost_(std::move(on_lost)) {
  constexpr size_t kOthers = 512;  // files of the run, connections of MPI
  allow_descriptors(static_cast<size_t>(ranks) + kOthers);
  for (Seen& seen : seen_) seen.heard = seen.moved = Clock::now(), seen.limit = unheard_limit;
  asio::co_spawn(context_, accept(), asio::detached);
}

asio::awaitable<void> HeartbeatHub::accept() {
  asio::steady_timer rest(context_);
  for (;;) {
    boost::system::error_code error;
    tcp::socket socket = co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (!error && strangers_ < kMostStrangers) {
      asio::co_spawn(context_, serve(std::make_shared<Session>(std::move(socket))), asio::detached);
    } else if (error) {  // out of descriptors, say: some may be free later
      rest.expires_after(std::chrono::milliseconds(100));
      co_await rest.async_wait(asio::redirect_error(asio::use_awaitable, error));
    }
  }
}

asio::awaitable<bool> HeartbeatHub::admit(std::shared_ptr<Session> session) const {
  asio::steady_timer deadline(context_, kHelloTime);
  deadline.async_wait([session](const boost::system::error_code& error) {
    boost::system::error_code ignored;
    if (!error) session->socket.close(ignored);
  });
  HeartbeatHello& hello = session->hello;
  co_await asio::async_read(session->socket, asio::buffer(&hello, sizeof hello), asio::use_awaitable);
  const bool ours = hello.magic == HeartbeatHello{}.magic && equal_in_constant_time(hello.key, keys_.of_ranks) &&
                    hello.rank >= 0 && static_cast<size_t>(hello.rank) < seen_.size() && hello.host.back() == '\0';
  if (!ours) co_return false;
  session->socket.set_option(tcp::no_delay(true));
  co_await asio::async_write(session->socket, asio::buffer(keys_.of_watchers), asio::use_awaitable);
  co_return deadline.cancel() > 0;
}

asio::awaitable<void> HeartbeatHub::serve(std::shared_ptr<Session> session) {
  bool admitted = false;
  ++strangers_;
  try {
    admitted = co_await admit(session);
  } catch (const boost::system::system_error&) {
  }
  --strangers_;
  if (!admitted) co_return;
  introduce(session->hello.rank, session->hello.pid, session->hello.host.data());
  seen_[static_cast<size_t>(session->hello.rank)].session = session;
  try {
    for (;;) {
      HeartbeatReport report;
      co_await asio::async_read(session->socket, asio::buffer(&report, sizeof report), asio::use_awaitable);
      if (!sound(report)) break;
      session->goodbye = report.kind == HeartbeatReport::goodbye;
      note(session->hello.rank, report);
    }
  } catch (const boost::system::system_error&) {
  }
  close(session);
}

void HeartbeatHub::close(const std::shared_ptr<Session>& session) {
  Seen& seen = seen_[static_cast<size_t>(session->hello.rank)];
  if (seen.session != session) return;  // it has come back by another connection
  seen.session = nullptr;
  if (session->goodbye) return;
  seen.link = RankView::Link::lost;
  lost_at_ = Clock::now();
  on_lost_();
}

void HeartbeatHub::introduce(int rank, int pid, const std::string& host) {
  Seen& seen = seen_[static_cast<size_t>(rank)];
  seen.pid = pid, seen.host = host;
  if (seen.link == RankView::Link::lost) seen.link = RankView::Link::heard;
}

void HeartbeatHub::note(int rank, const HeartbeatReport& report) {
  Seen& seen = seen_[static_cast<size_t>(rank)];
  const auto now = Clock::now();
  seen.link = report.kind == HeartbeatReport::goodbye ? RankView::Link::left : RankView::Link::heard;
  seen.position = report.position;
  seen.gpu = report.gpu;
  seen.limit = report.limit;
  seen.heard = now;
  constexpr double kLongest = 1e9;
  seen.moved = now - duration_of(std::min(report.still, kLongest));
}

std::vector<RankView> HeartbeatHub::views() const {
  const auto now = Clock::now();
  const auto seconds = [&](Clock::time_point then) { return std::chrono::duration<double>(now - then).count(); };
  std::vector<RankView> views;
  views.reserve(seen_.size());
  for (const Seen& seen : seen_)
    views.push_back(
        {seen.link, seen.position, seen.host, seen.pid, seconds(seen.moved), seconds(seen.heard), seen.limit, {}});
  return views;
}

std::vector<GpuReading> HeartbeatHub::gpus() const {
  std::vector<GpuReading> readings;
  readings.reserve(seen_.size());
  for (const Seen& seen : seen_) readings.push_back(seen.link == RankView::Link::heard ? seen.gpu : GpuReading{});
  return readings;
}

void HeartbeatHub::forgive() {
  for (Seen& seen : seen_) seen.heard = seen.moved = Clock::now();
}

void HeartbeatHub::command(HeartbeatCommand::Kind kind) {
  for (Seen& seen : seen_) {
    const std::shared_ptr<Session> session = seen.session;
    if (!session || session->writing) continue;
    session->command.kind = kind;
    session->writing = true;
    asio::async_write(session->socket, asio::buffer(&session->command, sizeof session->command),
                      [session](const boost::system::error_code&, size_t) { session->writing = false; });
  }
}

std::optional<double> HeartbeatHub::since_lost() const {
  const bool any =
      std::any_of(seen_.begin(), seen_.end(), [](const Seen& s) { return s.link == RankView::Link::lost; });
  if (!any) return std::nullopt;
  return std::chrono::duration<double>(Clock::now() - lost_at_).count();
}

}  // namespace capstan
