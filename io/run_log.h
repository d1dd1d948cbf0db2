#pragma once
// metrics.jsonl: one JSON object a line, one line a step, keys in the order given. Numbers are written with as many
// digits as it takes to read the same bits back, so that equal text means equal bits; NaN and infinity, which JSON does
// not have, are null. A line is one write() to a file opened for appending: a kill leaves at most a torn last line,
// which readers ignore and resume() drops. Rule: call sync() before a checkpoint, so that the log on disk is never
// behind it, and resume() before the first append of a resumed run.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "io/file_system.h"

namespace capstan {

using MetricsValue = std::variant<double, int64_t, uint64_t, std::string>;
using MetricsLine = std::vector<std::pair<std::string, MetricsValue>>;

/// The line as it is written, without the newline.
std::string metrics_text(const MetricsLine& line);

class RunLog {
 public:
  /// Opens for appending, creates it when it is not there. Error cannot_create.
  explicit RunLog(std::filesystem::path path);
  /// Error io_error, after which the file ends as it did before.
  void append(const MetricsLine& line);
  void sync();

  /// Goes back to `step`: later lines move to metrics.N.jsonl (the first N that is free), a torn last line is dropped,
  /// and the file is replaced in one rename. Returns how many lines were moved. A missing file is an empty one.
  static uint64_t resume(const std::filesystem::path& path, uint64_t step);

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
};

/// A metrics file as columns, for loss curves. A line without some key leaves NaN there; text values are left out.
struct Metrics {
  size_t lines = 0;
  std::map<std::string, std::vector<double>> columns;  ///< each `lines` long
};

/// Error missing_input, or bad_data with the number of the line. A torn last line is ignored.
Metrics read_metrics(const std::filesystem::path& path);

}  // namespace capstan
