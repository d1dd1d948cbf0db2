#include "io/corpus/build_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/corpus/digest.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kLargestJournal = uint64_t{1} << 30;
constexpr std::string_view kTitle = "a corpus is being built here";
constexpr std::string_view kEnd = "end of request";

std::string sealed(const std::string& line) {
  return fmt::format("{} {:016x}\n", line, xxh3_64(line.data(), line.size()));
}

/// The line without its hash; empty when that is wrong.
std::string_view unsealed(std::string_view line) {
  const size_t at = line.rfind(' ');
  if (at == line.npos) return {};
  const std::string_view content = line.substr(0, at);
  return fmt::format("{:016x}", xxh3_64(content.data(), content.size())) == line.substr(at + 1) ? content
                                                                                                : std::string_view();
}

std::string shard_line(const FinishedShard& shard) {
  return fmt::format("shard {} {}", name_of(shard.split), shard_row(shard.record));
}

/// Cuts the next whole line off; false when there is none.
bool next_line(std::string_view& text, std::string_view& line) {
  const size_t end = text.find('\n');
  if (end == text.npos) return false;
  line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return true;
}

}  // namespace

namespace {

/// Cuts title and request off the text of a journal; empty when they are not whole.
BuildRequest take_request(std::string_view& text) {
  BuildRequest request;
  std::string_view line;
  if (!next_line(text, line) || line != kTitle) return {};
  while (next_line(text, line)) {
    const std::string_view content = unsealed(line);
    if (content.empty()) return {};
    if (content == kEnd) return request;
    request.emplace_back(content);
  }
  return {};
}

std::string read_text(const fs::path& file) { return fs::exists(file) ? read_whole_file(file, kLargestJournal) : ""; }

}  // namespace

BuildRequest BuildJournal::read_request() const {
  const std::string bytes = read_text(file_);
  std::string_view text = bytes;
  return take_request(text);
}

JournalContents BuildJournal::read(uint64_t token_width, bool metadata) const {
  const std::string bytes = read_text(file_);
  std::string_view text = bytes, line;
  JournalContents contents;
  contents.request = take_request(text);
  while (!contents.request.empty() && next_line(text, line)) {
    const std::string_view content = unsealed(line);
    FinishedShard shard;
    for (const Split which : {Split::train, Split::validation})
      if (const std::string prefix = fmt::format("shard {} ", name_of(which)); content.starts_with(prefix)) {
        shard.split = which;
        shard.record = parse_shard_row(content.substr(prefix.size()), token_width, metadata, file_.string());
      }
    if (shard.record.file.empty()) break;
    contents.shards.push_back(std::move(shard));
  }
  return contents;
}

void BuildJournal::begin(const BuildRequest& request, const std::vector<FinishedShard>& shards) {
  std::string text = std::string(kTitle) + "\n";
  for (const std::string& line : request) text += sealed(line);
  text += sealed(std::string(kEnd));
  for (const FinishedShard& shard : shards) text += sealed(shard_line(shard));
  write_file_atomically(file_, text);
}

void BuildJournal::append(const FinishedShard& shard) {
  const std::string line = sealed(shard_line(shard));
  const auto failed = [&](int error) {
    return Error::make(ExitCode::io_error, "{}: write failed: {}; free some space and run the same build again",
                       file_.string(), std::strerror(error));
  };
  if (failpoint("journal.append")) throw failed(ENOSPC);
  {
    const FileDescriptor file(open(file_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
    if (!file.valid()) throw failed(errno);
    const ssize_t written = write(file.get(), line.data(), line.size());
    if (written != static_cast<ssize_t>(line.size())) throw failed(written < 0 ? errno : ENOSPC);
  }
  sync_file(file_);
}

std::string first_difference(const BuildRequest& before, const BuildRequest& now) {
  for (size_t i = 0; i < std::max(before.size(), now.size()); ++i) {
    const std::string old = i < before.size() ? before[i] : "nothing more",
                      present = i < now.size() ? now[i] : "nothing more";
    if (old != present) return fmt::format("it was \"{}\", now it is \"{}\"", old, present);
  }
  return "";
}

}  // namespace capstan
