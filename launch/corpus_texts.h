#pragma once
// What the corpus verbs print alike: numbers, tables of splits, and one progress line.

#include <chrono>
#include <cstdint>
#include <string>

#include "io/corpus/manifest.h"

namespace capstan {

/// "1,234,567"
std::string thousands(uint64_t number);
/// "1,234 documents"
std::string counted(uint64_t number, const char* thing);

void print_splits(const CorpusManifest& manifest);

/// One line on a terminal's stderr, rewritten a few times a second; nothing when stderr goes elsewhere.
class ProgressLine {
 public:
  ~ProgressLine();
  /// A stage of its own has its own clock. `total` 0: not known.
  void show(const std::string& stage, uint64_t done, uint64_t total, const std::string& more = "");

 private:
  using Clock = std::chrono::steady_clock;
  static bool on_terminal();
  const bool visible_ = on_terminal();
  std::string stage_;
  Clock::time_point begin_ = Clock::now(), last_{};
  bool shown_ = false;
};

}  // namespace capstan
