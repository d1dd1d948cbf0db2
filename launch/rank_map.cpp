#include "launch/rank_map.h"

#include <fmt/format.h>

#include <map>

#include "parallel/hang_judge.h"

namespace capstan {
namespace {

constexpr size_t kMostHosts = 16;

/// Whether two ranks that differ only along the axis are on different hosts.
bool crosses_hosts(const Mesh& mesh, Axis axis, const std::vector<std::string>& host_of_rank) {
  Mesh::Sizes sizes;
  for (const Axis one : kAllAxes) sizes[static_cast<size_t>(one)] = mesh.size(one);
  std::map<int, std::string> host_of_group;
  for (size_t rank = 0; rank < host_of_rank.size(); ++rank) {
    const int colour = Mesh(sizes, static_cast<int>(rank)).colour(axis);
    const auto [found, added] = host_of_group.emplace(colour, host_of_rank[rank]);
    if (!added && found->second != host_of_rank[rank]) return true;
  }
  return false;
}

std::string axes_text(const std::vector<std::string>& axes, const char* one, const char* several) {
  std::string text;
  for (const std::string& axis : axes) text += (text.empty() ? "" : ", ") + axis;
  return axes.empty() ? "" : fmt::format("{} {}", text, axes.size() == 1 ? one : several);
}

}  // namespace

std::vector<std::string> rank_map_lines(const Mesh& mesh, const std::vector<std::string>& host_of_rank) {
  std::vector<std::string> order;  // hosts as they are first met
  std::map<std::string, std::vector<int>> ranks_of;
  for (size_t rank = 0; rank < host_of_rank.size(); ++rank) {
    std::vector<int>& ranks = ranks_of[host_of_rank[rank]];
    if (ranks.empty()) order.push_back(host_of_rank[rank]);
    ranks.push_back(static_cast<int>(rank));
  }
  std::string text;
  for (size_t i = 0; i < order.size() && i < kMostHosts; ++i)
    text += fmt::format("{}{} has {}", text.empty() ? "" : "; ", order[i].substr(0, order[i].find('/')),
                        rank_list(ranks_of[order[i]]));
  if (order.size() > kMostHosts) text += fmt::format("; and {} more", order.size() - kMostHosts);
  std::vector<std::string> lines{fmt::format("{} host{}: {}", order.size(), order.size() == 1 ? "" : "s", text)};
  if (order.size() == 1) return lines;
  std::vector<std::string> inside, across;
  for (const Axis axis : kAllAxes)
    if (mesh.size(axis) > 1) (crosses_hosts(mesh, axis, host_of_rank) ? across : inside).push_back(name_of(axis));
  const std::string in = axes_text(inside, "stays inside a host", "stay inside a host"),
                    over = axes_text(across, "crosses hosts", "cross hosts");
  lines.push_back(in + (in.empty() || over.empty() ? "" : "; ") + over);
  return lines;
}

}  // namespace capstan
