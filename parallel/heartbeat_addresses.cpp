#include "parallel/heartbeat_addresses.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>
#include <sstream>

namespace capstan {
namespace {

constexpr size_t kMostAddresses = 16;

std::string text_of(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address->sa_family == AF_INET)
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text.data(), text.size());
  if (address->sa_family == AF_INET6) {
    const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    if (!IN6_IS_ADDR_LINKLOCAL(&v6)) inet_ntop(AF_INET6, &v6, text.data(), text.size());
  }
  return text.data();
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string host_identity() {
  struct stat network {};
  const bool known = stat("/proc/self/ns/net", &network) == 0;
  return fmt::format("{}/{}", host_name(), known ? static_cast<unsigned long>(network.st_ino) : 0ul);
}

std::vector<std::string> own_addresses() {
  std::vector<std::string> found, last;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    const bool up = (one->ifa_flags & IFF_UP) != 0 && (one->ifa_flags & IFF_RUNNING) != 0;
    if (one->ifa_addr == nullptr || !up || (one->ifa_flags & IFF_LOOPBACK) != 0) continue;
    const std::string text = text_of(one->ifa_addr);
    // Bridges of containers have the same address on every host: they are tried last.
    const std::string name = one->ifa_name;
    const bool bridge = name.starts_with("docker") || name.starts_with("br-") || name.starts_with("virbr");
    if (!text.empty()) (bridge ? last : found).push_back(text);
  }
  freeifaddrs(all);
  found.insert(found.end(), last.begin(), last.end());
  if (found.size() > kMostAddresses) found.resize(kMostAddresses);
  return found;
}

std::vector<int> choose_watchers(const std::vector<std::string>& host_of_rank) {
  constexpr size_t kMost = 4;
  std::set<int> chosen;
  std::set<std::string> hosts;
  const int ranks = static_cast<int>(host_of_rank.size());
  for (int rank = 0; rank < ranks && hosts.size() < kMost - 1; ++rank)
    if (hosts.insert(host_of_rank[static_cast<size_t>(rank)]).second) chosen.insert(rank);
  for (int rank = 1; rank < ranks && chosen.size() < kMost; ++rank) chosen.insert(rank);
  return {chosen.begin(), chosen.end()};
}

std::string Endpoint::text() const {
  std::string out = fmt::format("{}", port);
  for (const std::string& address : addresses) out += " " + address;
  return out;
}

Endpoint Endpoint::parse(const std::string& text) {
  Endpoint endpoint;
  std::istringstream words(text);
  words >> endpoint.port;
  for (std::string word; words >> word;) endpoint.addresses.push_back(word);
  return endpoint;
}

}  // namespace capstan
