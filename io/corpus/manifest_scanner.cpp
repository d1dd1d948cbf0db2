#include "io/corpus/manifest_scanner.h"

#include <array>
#include <charconv>

#include "core/error.h"
#include "io/json_events.h"

namespace capstan {

void ManifestScanner::refuse(std::string_view wanted) const {
  throw Error::make(ExitCode::bad_data,
                    "{}: byte {}: wanted {}; the manifest is damaged or was made by hand: build the corpus again",
                    where_, at_, wanted);
}

void ManifestScanner::skip_space() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
}

bool ManifestScanner::accept(char wanted) {
  skip_space();
  if (at_ >= text_.size() || text_[at_] != wanted) return false;
  ++at_;
  return true;
}

void ManifestScanner::expect(char wanted) {
  if (!accept(wanted)) refuse(std::string_view(&wanted, 1));
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
  const std::string_view raw = quoted();
  const bool plain = raw.find('\\') == raw.npos;
  if (plain) {
    for (const char c : raw)
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) return parse_quoted(raw);
    return std::string(raw);
  }
  return parse_quoted(raw);
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

constexpr std::array<uint8_t, 256> hex_values() {
  std::array<uint8_t, 256> values{};
  values.fill(0xff);
  for (unsigned i = 0; i < 16; ++i) values[static_cast<unsigned char>("0123456789abcdef"[i])] = static_cast<uint8_t>(i);
  return values;
}
constexpr std::array<uint8_t, 256> kHexValues = hex_values();

}  // namespace

/// Tens of thousands of these stand in a large manifest, so they are not taken by way of a string.
Digest128 ManifestScanner::digest() {
  constexpr std::string_view kWanted = "a digest of 32 hexadecimal digits";
  skip_space();
  if (text_.size() - at_ < 34 || text_[at_] != '"' || text_[at_ + 33] != '"') refuse(kWanted);
  uint64_t words[2] = {0, 0};
  unsigned wrong = 0;
  for (size_t i = 0; i < 32; ++i) {
    const uint8_t value = kHexValues[static_cast<unsigned char>(text_[at_ + 1 + i])];
    wrong |= value & 0xf0u;
    words[i / 16] = words[i / 16] << 4 | value;
  }
  if (wrong) refuse(kWanted);
  at_ += 34;
  return {words[0], words[1]};
}

void ManifestScanner::end() {
  skip_space();
  if (at_ != text_.size()) refuse("the end of the file");
}

}  // namespace capstan
