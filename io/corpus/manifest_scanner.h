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
  void expect(char wanted) {
    if (!accept(wanted)) refuse(std::string_view(&wanted, 1));
  }
  /// Whether it is; consumes it if so.
  bool accept(char wanted) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  /// "name" and the colon after it.
  void key(std::string_view name);
  std::string text();
  /// A whole number below 2^64 without sign, fraction or exponent.
  uint64_t number();
  bool boolean();
  Digest128 digest();
  /// Nothing may be left.
  void end();
  size_t at() const { return at_; }
  size_t left() const { return text_.size() - at_; }
  [[noreturn]] void refuse(std::string_view wanted) const;
  std::string_view where() const { return where_; }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  std::string_view quoted();
  std::string parse_quoted(std::string_view raw) const;

  std::string_view text_, where_;
  size_t at_ = 0;
};

}  // namespace capstan
