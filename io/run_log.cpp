#include "io/run_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/json_events.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxLog = uint64_t{1} << 32;

std::string value_text(const MetricsValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return json_quote(*text);
  if (const auto* whole = std::get_if<int64_t>(&value)) return fmt::format("{}", *whole);
  if (const auto* count = std::get_if<uint64_t>(&value)) return fmt::format("{}", *count);
  const double number = std::get<double>(value);
  return std::isfinite(number) ? fmt::format("{}", number) : "null";
}

Error log_failed(const char* what, const fs::path& path, int error) {
  return Error::make(ExitCode::io_error, "{}: {} failed: {}", path.string(), what, std::strerror(error));
}

/// Calls visit(line, number) for each whole line; the bytes after the last newline are not one.
template <typename Visit>
void for_each_line(std::string_view text, Visit&& visit) {
  for (size_t begin = 0, number = 1;; ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) return;
    visit(text.substr(begin, end - begin), number);
    begin = end + 1;
  }
}

JsonValue parse_line(std::string_view line, const std::string& where) {
  JsonLimits limits;
  limits.depth = 8;
  limits.values = 4096;
  return parse_json(line, where, limits);
}

/// The step of a line; nothing for a line that a crash has spoiled (zeros, half a line glued to another).
std::optional<uint64_t> step_of(std::string_view line) {
  try {
    return parse_line(line, "line").member("step").count("step");
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// metrics.jsonl -> metrics.1.jsonl, metrics.2.jsonl ...
fs::path first_free_name(const fs::path& path) {
  for (uint64_t n = 1;; ++n) {
    const fs::path name =
        path.parent_path() / fmt::format("{}.{}{}", path.stem().string(), n, path.extension().string());
    if (!fs::exists(name)) return name;
  }
}

}  // namespace

std::string metrics_text(const MetricsLine& line) {
  std::string text = "{";
  for (const auto& [key, value] : line)
    text += fmt::format("{}{}:{}", text.size() > 1 ? "," : "", json_quote(key), value_text(value));
  return text + "}";
}

RunLog::RunLog(fs::path path)
    : path_(std::move(path)), file_(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
  if (!file_.valid())
    throw Error::make(ExitCode::cannot_create, "{}: cannot open the run log for appending: {}", path_.string(),
                      std::strerror(errno));
}

void RunLog::append(const MetricsLine& line) {
  const std::string text = metrics_text(line) + "\n";
  const uint64_t before = size_of(file_, path_);
  const bool full = failpoint("run_log.write");
  ssize_t written = -1;
  do {
    written = full ? -1 : ::write(file_.get(), text.data(), text.size());
  } while (written < 0 && !full && errno == EINTR);
  if (written == static_cast<ssize_t>(text.size())) return;
  const int error = full || written >= 0 ? ENOSPC : errno;
  // Half a line would spoil the next one too. If even cutting it off fails, the next resume drops it.
  if (ftruncate(file_.get(), static_cast<off_t>(before)) != 0)
    throw log_failed("write, then cutting it off,", path_, error);
  throw log_failed("write", path_, error);
}

void RunLog::sync() {
  if (fdatasync(file_.get()) != 0) throw log_failed("fdatasync", path_, errno);
}

uint64_t RunLog::resume(const fs::path& path, uint64_t step) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_whole_file(path, kMaxLog);
  std::string kept, moved;
  uint64_t lines = 0;
  for_each_line(text, [&](std::string_view line, size_t) {
    const std::optional<uint64_t> at = step_of(line);
    const bool stays = at && *at <= step;
    lines += !stays;
    (stays ? kept : moved).append(line).push_back('\n');
  });
  if (kept.size() == text.size()) return 0;
  if (!moved.empty()) write_file_atomically(first_free_name(path), moved);  // first: no line is ever in neither file
  write_file_atomically(path, kept);
  return lines;
}

Metrics read_metrics(const fs::path& path) {
  const std::string text = read_whole_file(path, kMaxLog);
  Metrics metrics;
  for_each_line(text, [&](std::string_view line, size_t number) {
    const std::string where = fmt::format("{}:{}", path.string(), number);
    const JsonValue value = parse_line(line, where);
    for (const JsonMember& member : value.object(where)) {
      if (std::holds_alternative<std::string>(member.value.content())) continue;
      std::vector<double>& column = metrics.columns[member.name];
      column.resize(metrics.lines, std::nan(""));
      column.push_back(member.value.number(where + ", " + member.name));
    }
    ++metrics.lines;
  });
  for (auto& [name, column] : metrics.columns) column.resize(metrics.lines, std::nan(""));
  return metrics;
}

}  // namespace capstan
