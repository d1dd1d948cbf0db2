#pragma once
// ManifestScanner: reads JSON of a shape that is known beforehand, member by member in the order in which it was
// written, without building a tree: what does not stand where it must is an Error that names the byte. White space
// between the parts is free.

#include <cstdint>
#include <string>
#include <string_view>

#include "io/checkpoint/digest.h"

namespace capstan {

class ManifestScanner {
 public:
  ManifestScanner(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  /// The next character that is no white space must be `wanted`.
  void expect(char wanted);
  /// Whether it is; consumes it if so.
  bool accept(char wanted);
  /// "name" and the colon after it.
  void key(std::string_view name);
  std::string text();
  /// A whole number below 2^64 without sign, fraction or exponent.
  uint64_t number();
  bool boolean();
  Digest128 digest();
  /// Nothing may be left.
  void end();
  [[noreturn]] void refuse(std::string_view wanted) const;
  std::string_view where() const { return where_; }

 private:
  void skip_space();
  std::string_view quoted();
  std::string parse_quoted(std::string_view raw) const;

  std::string_view text_, where_;
  size_t at_ = 0;
};

}  // namespace capstan
