#pragma once
// Which old checkpoints go. Deleting is a rename to a .partial name, then the removal: a kill in between leaves a
// leftover that nobody trusts, never half of a checkpoint under a good name.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/checkpoint/group.h"

namespace capstan {

/// Collective, after `fresh` was committed. Keeps the newest `keep` (at least 2), `fresh` among them, and older ones
/// until two good ones are kept: `fresh`, which was just synced, and one whose every byte verifies. Returns what could
/// not be deleted, as sentences.
std::vector<std::string> prune_checkpoints(const std::filesystem::path& directory, uint64_t fresh, int keep,
                                           CheckpointGroup& group);

/// Takes a checkpoint out of sight and deletes it. Error when it cannot.
void remove_checkpoint(const std::filesystem::path& path);

/// Deletes leftover step-*.partial directories and files, as far as possible.
void remove_leftovers(const std::filesystem::path& directory);

}  // namespace capstan
