#include "io/printable.h"

#include <algorithm>

#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

bool is_control(char32_t value) {
  return value < 0x20 || (value >= 0x7f && value < 0xa0) || value == 0x2028 || value == 0x2029 ||
         (value >= 0x202a && value <= 0x202e) || (value >= 0x2066 && value <= 0x2069);  // and what turns text round
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = utf8_at(text, at);
    if (at + next.size > most) return out + "...";
    if (next.good && !is_control(next.value))
      out += text.substr(at, next.size);
    else
      out += '?';
    at += next.size;
  }
  return out;
}

std::string without_controls(std::string_view text) {
  std::string out;
  for (size_t begin = 0;; ++begin) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    out += printable(text.substr(begin, end - begin), text.size());
    if (end == text.size()) return out;
    out += '\n';
    begin = end;
  }
}

}  // namespace capstan
