#pragma once
// HeartbeatHub: the watcher's side: takes the connections of all ranks and knows what each of them said last, and when.
// A connection that ends without a goodbye is a process that is gone. Whatever does not introduce itself with the
// job's key within seconds is put out.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/hang_judge.h"
#include "parallel/heartbeat_wire.h"

namespace capstan {

class HeartbeatHub {
 public:
  using Clock = std::chrono::steady_clock;

  /// Listens on a port of its choice. Throws boost::system::system_error when it cannot.
  HeartbeatHub(boost::asio::io_context& context, int ranks, const HeartbeatKeys& keys, bool loopback_only,
               double unheard_limit, std::function<void()> on_lost);

  int port() const { return acceptor_.local_endpoint().port(); }
  void note(int rank, const HeartbeatReport& report);
  void introduce(int rank, int pid, const std::string& host);
  std::vector<RankView> views() const;
  /// By rank, what each said last; of ranks that are gone or have left nothing.
  std::vector<GpuReading> gpus() const;
  /// Begins all times anew: this process itself has slept.
  void forgive();
  void command(HeartbeatCommand::Kind kind);
  /// Seconds since a rank was found gone that has not come back; nothing when there is none.
  std::optional<double> since_lost() const;

 private:
  struct Session;
  struct Seen {
    RankView::Link link = RankView::Link::unheard;
    FlightPosition position;
    GpuReading gpu;
    std::string host;
    int pid = 0;
    double limit = 0.0;
    Clock::time_point heard, moved;
    std::shared_ptr<Session> session;
  };
  boost::asio::awaitable<void> accept();
  boost::asio::awaitable<void> serve(std::shared_ptr<Session> session);
  boost::asio::awaitable<bool> admit(std::shared_ptr<Session> session) const;
  void close(const std::shared_ptr<Session>& session);

  boost::asio::io_context& context_;
  boost::asio::ip::tcp::acceptor acceptor_;
  HeartbeatKeys keys_;
  std::vector<Seen> seen_;
  std::function<void()> on_lost_;
  size_t strangers_ = 0;  ///< sessions that have not introduced themselves yet
  Clock::time_point lost_at_{};
};

}  // namespace capstan
