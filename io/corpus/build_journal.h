#pragma once
// BuildJournal: what a build has finished, so that a killed one goes on where it stopped. It is the file
// `corpus.building` itself: first, in plain lines, what was asked for (inputs with sizes and times, options, the
// tokenizer's hash, the split), then a line for every shard that is complete and durable under its final name. A line
// carries its own hash, so a torn last line is no line. A build goes on only when it was asked for exactly the same.
// Failpoint: journal.append before each line is written.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/corpus/manifest.h"

namespace capstan {

/// What was asked for, a line each: "option field \"text\"".
using BuildRequest = std::vector<std::string>;

struct FinishedShard {
  Split split = Split::train;
  ShardRecord record;
};

struct JournalContents {
  BuildRequest request;
  std::vector<FinishedShard> shards;
};

class BuildJournal {
 public:
  explicit BuildJournal(std::filesystem::path file) : file_(std::move(file)) {}

  /// What an earlier build wrote. An empty or torn one has no request.
  JournalContents read(uint64_t token_width, bool metadata) const;
  BuildRequest read_request() const;
  /// Replaces the file, durably.
  void begin(const BuildRequest& request, const std::vector<FinishedShard>& shards);
  /// Adds a shard, durably.
  void append(const FinishedShard& shard);

 private:
  std::filesystem::path file_;
};

/// The first difference of two requests, for a message; empty when they are equal.
std::string first_difference(const BuildRequest& before, const BuildRequest& now);

}  // namespace capstan
