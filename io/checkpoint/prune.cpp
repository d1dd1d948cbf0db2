#include "io/checkpoint/prune.h"

#include <algorithm>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/checkpoint/checkpoint.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr size_t kGoodOnes = 2;  ///< so many must remain, whatever `keep` says

std::vector<uint64_t> agreed_steps(const fs::path& directory, CheckpointGroup& group) {
  const auto told = agree(group, [&] {
    if (group.rank() != 0) return std::string();
    Packer packer;
    const auto found = find_checkpoints(directory);
    packer.put(found.size());
    for (const CheckpointLocation& location : found) packer.put(location.step);
    return packer.take();
  });
  Unpacker unpack(told[0]);
  std::vector<uint64_t> steps;
  for (uint64_t n = unpack.count(); n > 0; --n) steps.push_back(unpack.count());
  return steps;
}

/// Steps to delete, newest first; verifies as few as it takes.
std::vector<uint64_t> condemned(const fs::path& directory, uint64_t fresh, size_t keep, CheckpointGroup& group) {
  std::vector<uint64_t> others = agreed_steps(directory, group);
  std::erase(others, fresh);
  if (others.size() + 1 <= keep) return {};
  size_t kept = 1, good = 1;
  std::vector<uint64_t> gone;
  for (const uint64_t step : others) {
    const bool stays = kept < keep || good < kGoodOnes;
    if (!stays) {
      gone.push_back(step);
      continue;
    }
    ++kept;
    if (good < kGoodOnes && verify_together(directory / checkpoint_name(step), group).empty()) ++good;
  }
  return gone;
}

}  // namespace

void remove_checkpoint(const fs::path& path) {
  const fs::path hidden = fs::path(path.string() + ".removed.partial");
  std::error_code problem;
  fs::remove_all(hidden, problem);
  rename_durably(path, hidden);
  if (failpoint("checkpoint.prune")) throw Error::make(ExitCode::io_error, "{}: cannot delete it", path.string());
  fs::remove_all(hidden, problem);
  if (problem) throw Error::make(ExitCode::io_error, "{}: cannot delete it: {}", hidden.string(), problem.message());
}

void remove_leftovers(const fs::path& directory) {
  std::error_code problem;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(directory, problem)) {
    const fs::path& path = entry.path();
    const std::string name = path.filename().string();
    if (path.extension() == ".partial" && (name.starts_with("step-") || name.starts_with("latest")))
      leftovers.push_back(path);
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, problem);
}

std::vector<std::string> prune_checkpoints(const fs::path& directory, uint64_t fresh, int keep,
                                           CheckpointGroup& group) {
  const size_t kept = static_cast<size_t>(std::max(keep, static_cast<int>(kGoodOnes)));
  const std::vector<uint64_t> gone = condemned(directory, fresh, kept, group);
  const auto told = agree(group, [&] {
    Packer packer;
    std::vector<std::string> sentences;
    if (group.rank() == 0)
      for (const uint64_t step : gone) {
        try {
          remove_checkpoint(directory / checkpoint_name(step));
        } catch (const Error& error) {
          sentences.push_back(fmt::format("old checkpoint not deleted: {}", error.what()));
        }
      }
    packer.put(sentences.size());
    for (const std::string& sentence : sentences) packer.put(sentence);
    return packer.take();
  });
  Unpacker unpack(told[0]);
  std::vector<std::string> warnings;
  for (uint64_t n = unpack.count(); n > 0; --n) warnings.push_back(unpack.text());
  return warnings;
}

}  // namespace capstan
