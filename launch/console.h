#pragma once
// What rank 0 tells the person at the terminal: lines, and one progress line that is rewritten in place on a terminal
// and printed now and then (every few seconds) elsewhere. Other ranks hold a silent one.

#include <chrono>
#include <string>

namespace capstan {

class Console {
 public:
  explicit Console(bool speaks);
  ~Console();
  /// A line of its own.
  void say(const std::string& line);
  /// The progress line; `last` forces it out and ends it.
  void progress(const std::string& line, bool last = false);

 private:
  bool speaks_, terminal_, open_ = false;
  std::chrono::steady_clock::time_point printed_{};
};

/// "3 s", "4 min 05 s", "2 h 10 min"
std::string duration_text(double seconds);
/// "1.5 MiB"
std::string bytes_text(double bytes);

}  // namespace capstan
