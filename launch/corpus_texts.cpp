#include "launch/corpus_texts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "launch/console.h"

namespace capstan {
namespace {

std::string bar(double share) {
  constexpr int kWidth = 24;
  const int full = static_cast<int>(share * kWidth);
  return "[" + std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(kWidth - full), '.') + "]";
}

}  // namespace

std::string thousands(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

std::string counted(uint64_t number, const char* thing) {
  return fmt::format("{} {}{}", thousands(number), thing, number == 1 ? "" : "s");
}

void print_splits(const CorpusManifest& manifest) {
  fmt::print("  {:<11} {:>7} {:>16} {:>12} {:>16} {:>16}\n", "split", "shards", "tokens", "documents", "bytes of text",
             "bytes on disk");
  for (const Split which : {Split::train, Split::validation}) {
    const SplitRecord& split = manifest.split(which);
    uint64_t on_disk = 0;
    for (const ShardRecord& shard : split.shards) on_disk += shard.file_size + shard.metadata_size;
    fmt::print("  {:<11} {:>7} {:>16} {:>12} {:>16} {:>16}\n", name_of(which), split.shards.size(),
               thousands(split.tokens()), thousands(split.documents()), thousands(split.bytes()), thousands(on_disk));
  }
}

bool ProgressLine::on_terminal() { return isatty(STDERR_FILENO) == 1; }

void ProgressLine::show(const std::string& stage, uint64_t done, uint64_t total, const std::string& more) {
  const Clock::time_point now = Clock::now();
  if (!visible_ || (shown_ && stage == stage_ && now - last_ < std::chrono::milliseconds(200))) return;
  if (stage != stage_) begin_ = now;
  stage_ = stage;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double share = total ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 0;
  std::string line = stage;
  if (total) line += fmt::format(" {} {:.0f}%", bar(share), 100 * share);
  if (done) line += fmt::format(", {:.1f} MB/s", rate / 1e6);
  line += more;
  if (rate > 0 && total > done) line += ", " + duration_text(static_cast<double>(total - done) / rate) + " left";
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
}

ProgressLine::~ProgressLine() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

}  // namespace capstan
