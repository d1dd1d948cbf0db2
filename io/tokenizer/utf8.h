#pragma once
// UTF-8 that may be broken. A byte that belongs to no well-formed character (no surrogates, nothing overlong, nothing
// beyond U+10FFFF) is a character of its own; who walks a text with utf8_at() therefore never fails and never skips.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace capstan {

struct Utf8Char {
  char32_t value = 0;  ///< the byte itself when it is bad
  uint32_t size = 1;
  bool good = true;
};

/// The character that begins at `at`, which must be inside the text.
Utf8Char utf8_at(std::string_view text, size_t at);
void append_utf8(std::string& text, char32_t value);
/// Where the first bad byte is; npos when there is none.
size_t first_bad_utf8(std::string_view text, size_t from = 0);
/// How many bytes at the end of the text are the beginning of a character that more bytes may complete.
size_t incomplete_utf8_tail(std::string_view text);
size_t count_utf8(std::string_view text);

/// For showing text to people: turns what is broken into U+FFFD, one for each longest beginning of a character (as
/// Unicode recommends), whatever the chunks in which the text comes.
class Utf8Repair {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);

 private:
  std::string held_;
};

}  // namespace capstan
