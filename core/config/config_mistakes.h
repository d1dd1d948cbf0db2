#pragma once
// All mistakes of a configuration, reported at once in the order of the file. A place is a line and column of the file,
// the command line, or nowhere in particular.

#include <string>
#include <vector>

namespace capstan {

struct ConfigPlace {
  std::string source;  ///< file name, "command line", "preset gpt2-124m"; empty: no place
  int line = 0;        ///< from 1; 0: the source has no lines
  int column = 0;
  std::string text() const;  ///< "run.toml:3:5", "command line"
};

class ConfigMistakes {
 public:
  void add(const ConfigPlace& place, std::string message);
  bool empty() const { return list_.empty(); }
  /// Throws Error(config) that lists them all; returns when there are none.
  void throw_if_any() const;

 private:
  struct Mistake {
    ConfigPlace place;
    std::string message;
  };
  std::vector<Mistake> list_;
};

/// A user's text made safe for a terminal line: control bytes escaped, long text cut.
std::string shown(const std::string& text);

}  // namespace capstan
