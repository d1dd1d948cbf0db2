#include "io/corpus/manifest_scanner.h"

#include <charconv>
#include <cstring>

#include "core/error.h"
#include "io/json_events.h"

namespace capstan {

void ManifestScanner::refuse(std::string_view wanted) const {
  throw Error::make(ExitCode::bad_data,
                    "{}: byte {}: wanted {}; the manifest is damaged or was made by hand: build the corpus again",
                    where_, at_, wanted);
}

/// What stands between the next two quotes, escapes and all; the caller undoes those.
std::string_view ManifestScanner::quoted() {
  expect('"');
  const size_t begin = at_;
  for (; at_ < text_.size() && text_[at_] != '"'; ++at_)
    if (text_[at_] == '\\') ++at_;
  if (at_ >= text_.size()) refuse("the end of a string");
  return text_.substr(begin, at_++ - begin);
}

void ManifestScanner::key(std::string_view name) {
  skip_space();
  const size_t before = at_;
  if (quoted() != name) {
    at_ = before;
    refuse(fmt::format("the key \"{}\"", name));
  }
  expect(':');
}

std::string ManifestScanner::text() {
  expect('"');
  const auto plain = [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; };
  const size_t begin = at_;
  size_t end = begin;
  while (end < text_.size() && plain(text_[end])) ++end;
  if (end < text_.size() && text_[end] == '"') {
    at_ = end + 1;
    return std::string(text_.substr(begin, end - begin));
  }
  --at_;  // escapes, other characters, or no end: the long way
  return parse_quoted(quoted());
}

std::string ManifestScanner::parse_quoted(std::string_view raw) const {
  return parse_json(std::string_view(raw.data() - 1, raw.size() + 2), where_).text(where_);
}

uint64_t ManifestScanner::number() {
  skip_space();
  uint64_t value = 0;
  const char* begin = text_.data() + at_;
  const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
  if (error != std::errc() || (*begin == '0' && end != begin + 1)) refuse("a whole number below 2^64");
  at_ += static_cast<size_t>(end - begin);
  return value;
}

bool ManifestScanner::boolean() {
  skip_space();
  for (const std::string_view word : {"true", "false"})
    if (text_.substr(at_).starts_with(word)) {
      at_ += word.size();
      return word == "true";
    }
  refuse("true or false");
}

namespace {

/// Eight hexadecimal digits (0-9, a-f) as a number; `wrong` gets bits where there is anything else.
uint32_t hex_word(const char* digits, uint64_t& wrong) {
  constexpr uint64_t kEach = 0x0101010101010101;
  uint64_t text = 0;
  std::memcpy(&text, digits, 8);
  const uint64_t values = (text & 0x0f * kEach) + 9 * (text >> 6 & kEach);  // of each byte, if it is a digit
  const uint64_t beyond_nine = (values + 0x76 * kEach) >> 7 & kEach;
  wrong |= (values & 0xf0 * kEach) | (text ^ (values + 0x30 * kEach + 0x27 * beyond_nine));
  uint64_t packed = __builtin_bswap64(values);
  packed = (packed | packed >> 4) & 0x00ff00ff00ff00ff;
  packed = (packed | packed >> 8) & 0x0000ffff0000ffff;
  return static_cast<uint32_t>(packed | packed >> 16);
}

}  // namespace

/// Tens of thousands of these stand in a large manifest, so they are read eight digits at a time.
Digest128 ManifestScanner::digest() {
  constexpr std::string_view kWanted = "a digest of 32 hexadecimal digits";
  skip_space();
  if (text_.size() - at_ < 34 || text_[at_] != '"' || text_[at_ + 33] != '"') refuse(kWanted);
  const char* digits = text_.data() + at_ + 1;
  uint64_t wrong = 0;
  const auto half = [&](size_t first) {
    const uint64_t upper = hex_word(digits + first, wrong);
    return upper << 32 | hex_word(digits + first + 8, wrong);
  };
  const Digest128 digest{half(0), half(16)};
  if (wrong) refuse(kWanted);
  at_ += 34;
  return digest;
}

void ManifestScanner::end() {
  skip_space();
  if (at_ != text_.size()) refuse("the end of the file");
}

}  // namespace capstan
