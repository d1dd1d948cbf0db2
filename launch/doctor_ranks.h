#pragma once
// What the ranks find out together: that they reach each other and add up right, and that what one of them writes to a
// directory another reads back whole. Collective: every rank makes the same calls and gets the same findings.

#include <filesystem>
#include <vector>

#include "core/communicator.h"
#include "launch/doctor_finding.h"

namespace capstan {

/// Names the hosts, sums on all ranks, checks the sum and times it.
std::vector<Finding> communication_findings(Communicator& world, const std::string& library, bool launched);

/// Ranks of the job on this host.
int ranks_on_this_host(Communicator& world);

/// Each rank writes and syncs `bytes`, then reads what its neighbour wrote and compares every byte. Leaves nothing.
Finding write_read_back(Communicator& world, const std::filesystem::path& directory, size_t bytes);

}  // namespace capstan
