#pragma once
// Where ranks are and how they reach each other by TCP: the name of a host, its addresses, and the choice of the few
// ranks that all others report to.

#include <string>
#include <vector>

namespace capstan {

/// Name of the machine (or network namespace) this process is on: equal where 127.0.0.1 is the same.
std::string host_identity();
std::string host_name();

/// Addresses of this host's interfaces that are up, without the loopback's.
std::vector<std::string> own_addresses();

/// Ranks that the others report to, ascending: the first of them that lives watches over the job. Rank 0 and another
/// of its host, and the first ranks of two other hosts, so that neither a process nor a host takes all of them along.
std::vector<int> choose_watchers(const std::vector<std::string>& host_of_rank);

/// "1234 10.0.0.1 10.1.0.1": a port and where to try it.
struct Endpoint {
  int port = 0;  ///< 0: does not listen
  std::vector<std::string> addresses;
  std::string text() const;
  static Endpoint parse(const std::string& text);
};

}  // namespace capstan
