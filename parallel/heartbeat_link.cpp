#include "parallel/heartbeat_link.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <optional>

namespace capstan {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {
constexpr std::chrono::seconds kConnectTime{3}, kRestTime{1};
}

struct HeartbeatLink::Connection {
  explicit Connection(asio::io_context& context) : socket(context) {}
  tcp::socket socket;
  HeartbeatReport report;               ///< being written
  std::optional<HeartbeatReport> next;  ///< the newest after it
  bool writing = false;
};

HeartbeatLink::HeartbeatLink(asio::io_context& context, Endpoint watcher, const HeartbeatHello& hello,
                             const HeartbeatKey& answer, std::function<void(HeartbeatCommand)> obey)
    : context_(context), watcher_(std::move(watcher)), hello_(hello), answer_(answer), obey_(std::move(obey)) {
  asio::co_spawn(context_, stay_connected(), asio::detached);
}

asio::awaitable<void> HeartbeatLink::stay_connected() {
  asio::steady_timer rest(context_);
  for (;;) {
    for (const std::string& address : watcher_.addresses) {
      auto connection = std::make_shared<Connection>(context_);
      const bool met = co_await introduce(connection, address);
      introducing_ = false;
      if (met) co_await talk(connection);
    }
    rest.expires_after(kRestTime);
    co_await rest.async_wait(asio::use_awaitable);
  }
}

asio::awaitable<bool> HeartbeatLink::introduce(std::shared_ptr<Connection> connection, std::string address) {
  boost::system::error_code bad;
  const auto ip = asio::ip::make_address(address, bad);
  if (bad) co_return false;
  asio::steady_timer deadline(context_, kConnectTime);
  deadline.async_wait([connection](const boost::system::error_code& error) {
    boost::system::error_code ignored;
    if (!error) connection->socket.close(ignored);
  });
  try {
    const tcp::endpoint endpoint(ip, static_cast<uint16_t>(watcher_.port));
    co_await connection->socket.async_connect(endpoint, asio::use_awaitable);
    introducing_ = true;
    connection->socket.set_option(tcp::no_delay(true));
    co_await asio::async_write(connection->socket, asio::buffer(&hello_, sizeof hello_), asio::use_awaitable);
    HeartbeatKey got{};
    co_await asio::async_read(connection->socket, asio::buffer(got), asio::use_awaitable);
    const bool in_time = deadline.cancel() > 0;
    co_return in_time&& got == answer_;
  } catch (const boost::system::system_error&) {
    co_return false;  // somebody else's port, an address that is not on this network, a watcher that is gone
  }
}

asio::awaitable<void> HeartbeatLink::talk(std::shared_ptr<Connection> connection) {
  connection_ = connection;
  if (goodbye_) send(*goodbye_);
  try {
    for (;;) {
      HeartbeatCommand command;
      co_await asio::async_read(connection->socket, asio::buffer(&command, sizeof command), asio::use_awaitable);
      obey_(command);
    }
  } catch (const boost::system::system_error&) {
    connection_ = nullptr;
  }
}

void HeartbeatLink::send(const HeartbeatReport& report) {
  if (!connection_) return;
  if (connection_->writing)
    connection_->next = report;
  else
    write(connection_, report);
}

void HeartbeatLink::leave(const HeartbeatReport& goodbye) {
  goodbye_ = goodbye;
  send(goodbye);
}

bool HeartbeatLink::idle() const { return !introducing_ && (!connection_ || !connection_->writing); }

void HeartbeatLink::write(const std::shared_ptr<Connection>& connection, const HeartbeatReport& report) {
  connection->report = report;
  connection->writing = true;
  asio::async_write(connection->socket, asio::buffer(&connection->report, sizeof connection->report),
                    [connection](const boost::system::error_code& error, size_t) {
                      connection->writing = false;
                      if (error || !connection->next) return;
                      const HeartbeatReport newest = *connection->next;
                      connection->next.reset();
                      write(connection, newest);
                    });
}

}  // namespace capstan
