#pragma once
// Which ranks are on which host, and which axes of the mesh stay inside a host: what decides how fast a layout is.

#include <string>
#include <vector>

#include "core/mesh.h"

namespace capstan {

/// host_of_rank: names, equal on one host. At most a few lines, however many hosts there are.
std::vector<std::string> rank_map_lines(const Mesh& mesh, const std::vector<std::string>& host_of_rank);

}  // namespace capstan
