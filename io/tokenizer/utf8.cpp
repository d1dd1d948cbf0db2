#include "io/tokenizer/utf8.h"

#include <cstring>

namespace capstan {
namespace {

struct Lead {
  uint32_t size;         // 0: begins no character
  unsigned char lo, hi;  // of the second byte
};

Lead lead_of(unsigned char c) {
  if (c < 0x80) return {1, 0, 0};
  if (c < 0xC2 || c > 0xF4) return {0, 0, 0};
  if (c < 0xE0) return {2, 0x80, 0xBF};
  if (c < 0xF0)
    return {3, static_cast<unsigned char>(c == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(c == 0xED ? 0x9F : 0xBF)};
  return {4, static_cast<unsigned char>(c == 0xF0 ? 0x90 : 0x80), static_cast<unsigned char>(c == 0xF4 ? 0x8F : 0xBF)};
}

/// How many bytes from `at` are a character or the beginning of one; `whole` says which.
uint32_t well_formed(std::string_view text, size_t at, bool& whole) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const Lead lead = lead_of(byte(0));
  whole = lead.size == 1;
  if (lead.size <= 1) return lead.size;
  uint32_t have = 1;
  for (; have < lead.size && at + have < text.size(); ++have) {
    const unsigned char lo = have == 1 ? lead.lo : 0x80, hi = have == 1 ? lead.hi : 0xBF;
    if (byte(have) < lo || byte(have) > hi) break;
  }
  whole = have == lead.size;
  return have;
}

}  // namespace

Utf8Char utf8_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  if (byte(0) < 0x80) return {byte(0), 1, true};
  bool whole = false;
  const uint32_t size = well_formed(text, at, whole);
  if (!whole) return {byte(0), 1, false};
  char32_t value = byte(0) & (0x7F >> size);
  for (uint32_t i = 1; i < size; ++i) value = value << 6 | (byte(i) & 0x3F);
  return {value, size, true};
}

void append_utf8(std::string& text, char32_t value) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (value >> shift & 0x3F)); };
  if (value < 0x80) {
    text += static_cast<char>(value);
  } else if (value < 0x800) {
    text += {static_cast<char>(0xC0 | value >> 6), tail(0)};
  } else if (value < 0x10000) {
    text += {static_cast<char>(0xE0 | value >> 12), tail(6), tail(0)};
  } else {
    text += {static_cast<char>(0xF0 | value >> 18), tail(12), tail(6), tail(0)};
  }
}

size_t first_bad_utf8(std::string_view text, size_t from) {
  for (size_t at = from; at < text.size();) {
    uint64_t eight = 0;
    if (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const Utf8Char c = utf8_at(text, at);
    if (!c.good) return at;
    at += c.size;
  }
  return text.npos;
}

size_t incomplete_utf8_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t at = text.size() - back;
    if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
    bool whole = false;
    const uint32_t have = well_formed(text, at, whole);
    return !whole && have == back ? back : 0;
  }
  return 0;
}

size_t count_utf8(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) at += utf8_at(text, at).size;
  return count;
}

void Utf8Repair::push(std::string_view bytes, std::string& out) {
  held_ += bytes;
  const size_t end = held_.size() - incomplete_utf8_tail(held_);
  for (size_t at = 0; at < end;) {
    bool whole = false;
    const uint32_t size = well_formed(held_, at, whole);
    if (whole)
      out.append(held_, at, size);
    else
      append_utf8(out, 0xFFFD);
    at += size == 0 ? 1 : size;
  }
  held_.erase(0, end);
}

void Utf8Repair::finish(std::string& out) {
  if (!held_.empty()) append_utf8(out, 0xFFFD);
  held_.clear();
}

}  // namespace capstan
