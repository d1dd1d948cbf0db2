#pragma once
// HeartbeatLink: the connection of this rank to one watcher, kept up for as long as it lives: it tries the watcher's
// addresses in turn and begins anew when a connection breaks. Of the reports handed to it only the newest waits, so a
// watcher that stands still costs nothing.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/heartbeat_addresses.h"
#include "parallel/heartbeat_wire.h"

namespace capstan {

class HeartbeatLink {
 public:
  HeartbeatLink(boost::asio::io_context& context, Endpoint watcher, const HeartbeatHello& hello,
                const HeartbeatKey& answer, std::function<void(HeartbeatCommand)> obey);
  void send(const HeartbeatReport& report);
  /// The last report: also goes out on a connection that is only now being made.
  void leave(const HeartbeatReport& goodbye);
  /// Nothing is on its way to the watcher any more.
  bool idle() const;

 private:
  struct Connection;
  boost::asio::awaitable<void> stay_connected();
  boost::asio::awaitable<void> talk(std::shared_ptr<Connection> connection);
  boost::asio::awaitable<bool> introduce(std::shared_ptr<Connection> connection, std::string address);
  static void write(const std::shared_ptr<Connection>& connection, const HeartbeatReport& report);

  boost::asio::io_context& context_;
  Endpoint watcher_;
  HeartbeatHello hello_;
  HeartbeatKey answer_;
  std::function<void(HeartbeatCommand)> obey_;
  std::shared_ptr<Connection> connection_;  ///< null while there is none
  bool introducing_ = false;                ///< the watcher may know this rank, but has not answered yet
  std::optional<HeartbeatReport> goodbye_;
};

}  // namespace capstan
