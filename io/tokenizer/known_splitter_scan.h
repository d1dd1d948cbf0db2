#pragma once
// The scanner behind known_splitter(): the expressions of byte-level tokenizers are one grammar with a handful of
// choices (SplitRules), written out by hand. Runs of ASCII letters are passed eight at a time; every other character is
// looked up by its class. Where an expression would backtrack, the comment beside the code says why none is needed; so
// each character is looked at a bounded number of times whatever the text.

#include <array>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "io/tokenizer/known_splitter_unicode.h"
#include "io/tokenizer/splitter.h"

namespace capstan {

struct SplitRules {
  enum class Contraction : uint8_t { none, exact, ascii_case, any_case };
  enum class Words : uint8_t {
    after_space,  ///< " ?\p{L}+", numbers likewise (GPT-2)
    after_sign,   ///< "[^\r\n\p{L}\p{N}]?\p{L}+" (cl100k)
    with_marks,   ///< likewise of letters and marks (Qwen 3.5)
    cased,        ///< capitals, then small letters (o200k); contractions stay at the word
  };
  enum class Tail : uint8_t { none, newlines, newlines_and_slashes };

  Contraction contraction = Contraction::none;
  Words words = Words::after_space;
  uint8_t digits = 0;      ///< of a number; 0: any, and a space may come before
  Tail tail = Tail::none;  ///< what stays at the signs before it
  bool whole_end = false;  ///< white space that ends the text is one word, line ends or not
  bool operator==(const SplitRules&) const = default;
};

namespace split_detail {

constexpr uint8_t bit(CharacterClass kind) { return static_cast<uint8_t>(1u << static_cast<unsigned>(kind)); }
constexpr uint8_t kOther = bit(CharacterClass::other), kMark = bit(CharacterClass::mark),
                  kUpper = bit(CharacterClass::upper), kLower = bit(CharacterClass::lower),
                  kCaseless = bit(CharacterClass::caseless), kNumber = bit(CharacterClass::number),
                  kNewline = bit(CharacterClass::newline), kBlank = bit(CharacterClass::space) | kNewline;
constexpr uint8_t kLetter = kUpper | kLower | kCaseless;

constexpr std::array<uint8_t, 128> kAscii = [] {
  std::array<uint8_t, 128> classes{};
  for (unsigned c = 0; c < 128; ++c) {
    const bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z', digit = c >= '0' && c <= '9';
    const bool newline = c == '\n' || c == '\r', space = c == ' ' || (c >= 9 && c <= 13);
    classes[c] = lower     ? kLower
                 : upper   ? kUpper
                 : digit   ? kNumber
                 : newline ? kNewline
                 : space   ? bit(CharacterClass::space)
                           : kOther;
  }
  return classes;
}();

/// The top bit of each of eight bytes that is no ASCII letter (no small one, when `lower`).
template <bool lower>
inline uint64_t no_letter(uint64_t bytes) {
  constexpr uint64_t kEach = 0x0101010101010101;
  const uint64_t folded = (lower ? bytes : bytes | 0x20 * kEach) & 0x7f * kEach;
  const uint64_t from_a = folded + (0x80 - 'a') * kEach, beyond_z = folded + (0x80 - 'z' - 1) * kEach;
  return ~(from_a & ~beyond_z & ~bytes) & 0x80 * kEach;
}

/// Class (as a bit) and size of a character; no class beyond the end of the text.
struct Seen {
  uint8_t kind = 0;
  uint8_t size = 0;
};

/// A well-formed character of two to four bytes; anything else is one byte of class other.
inline Seen look_beyond_ascii(const uint8_t* at, const uint8_t* end, const CharacterClasses& classes) {
  const auto follows = [&](int i) { return at + i < end && (at[i] & 0xc0) == 0x80; };
  const uint32_t first = *at;
  uint32_t value = 0;
  uint8_t size = 0;
  if (first >= 0xc2 && first <= 0xdf && follows(1)) {
    value = (first & 0x1f) << 6 | (at[1] & 0x3fu), size = 2;
  } else if ((first & 0xf0) == 0xe0 && follows(1) && follows(2)) {
    value = (first & 0x0f) << 12 | (at[1] & 0x3fu) << 6 | (at[2] & 0x3fu), size = 3;
    if (value < 0x800 || (value >= 0xd800 && value < 0xe000)) size = 0;
  } else if (first >= 0xf0 && first <= 0xf4 && follows(1) && follows(2) && follows(3)) {
    value = (first & 0x07) << 18 | (at[1] & 0x3fu) << 12 | (at[2] & 0x3fu) << 6 | (at[3] & 0x3fu), size = 4;
    if (value < 0x10000 || value >= CharacterClasses::kCodePoints) size = 0;
  }
  if (size == 0) return {kOther, 1};
  return {bit(classes[value]), size};
}

template <SplitRules rules>
class Scanner final : public Splitter {
 public:
  void split(std::string_view text, std::vector<uint32_t>& ends) override {
    CAPSTAN_CHECK(text.size() <= UINT32_MAX, "a text of {} bytes is too long to be split at once", text.size());
    const auto* begin = reinterpret_cast<const uint8_t*>(text.data());
    end_ = begin + text.size();
    for (Place at = begin; at < end_;) {
      at = word(at);
      ends.push_back(static_cast<uint32_t>(at - begin));
    }
  }

 private:
  using Place = const uint8_t*;
  using Words = SplitRules::Words;
  using Contraction = SplitRules::Contraction;
  static constexpr bool kGpt2 = rules.words == Words::after_space;
  static constexpr uint8_t kWord = rules.words == Words::with_marks ? kLetter | kMark : kLetter;
  static constexpr uint8_t kSign = rules.words == Words::with_marks ? kOther : kOther | kMark;
  static constexpr uint8_t kCapitals = kUpper | kCaseless | kMark, kSmall = kLower | kCaseless | kMark;

  Seen look(Place at) const {
    if (at >= end_) return {};
    return *at < 0x80 ? Seen{kAscii[*at], 1} : look_beyond_ascii(at, end_, classes_);
  }

  /// Past the run of characters of these classes.
  template <uint8_t kinds>
  Place skip(Place at) const {
    constexpr bool kLetters = (kinds & kLower) != 0;
    if constexpr (kLetters && std::endian::native == std::endian::little) {
      while (end_ - at >= 8) {
        uint64_t bytes;
        std::memcpy(&bytes, at, 8);
        const uint64_t stops = no_letter<(kinds & kUpper) == 0>(bytes);
        at += stops ? std::countr_zero(stops) / 8 : 8;
        if (!stops) continue;
        if (*at < 0x80) return at;
        const Seen seen = look_beyond_ascii(at, end_, classes_);
        if (!(seen.kind & kinds)) return at;
        at += seen.size;
      }
    }
    for (Seen seen = look(at); seen.kind & kinds; seen = look(at)) at += seen.size;
    return at;
  }

  Place word(Place at) const {
    if constexpr (rules.contraction != Contraction::none && rules.words != Words::cased)
      if (*at == '\'')
        if (const Place end = contraction(at); end != at) return end;
    if constexpr (kGpt2) return word_after_space(at);
    return word_after_sign(at);
  }

  Place word_after_space(Place at) const {
    const Seen first = look(at);
    const bool space = *at == ' ';
    const Seen seen = space ? look(at + 1) : first;
    const Place rest = at + space + seen.size;
    if (seen.kind & kLetter) return skip<kLetter>(rest);
    if (seen.kind & kNumber) return skip<kNumber>(rest);
    if (seen.kind & kSign) return skip<kSign>(rest);
    return blank(at);
  }

  Place word_after_sign(Place at) const {
    const Seen first = look(at);
    if constexpr (rules.words == Words::cased) {
      if (const Place end = cased_word(at, first)) return contraction(end);
    } else {
      if (first.kind & kWord) return skip<kWord>(at + first.size);
    }
    if (first.kind & kNumber) return number(at + first.size);
    const Place then = at + first.size;
    const Seen next = look(then);
    if constexpr (rules.words != Words::cased)
      if (!(first.kind & kNewline) && (next.kind & kWord)) return skip<kWord>(then + next.size);
    if (first.kind & kSign) return tail(skip<kSign>(then));
    if (*at == ' ' && (next.kind & kSign)) return tail(skip<kSign>(then + next.size));
    return blank(at);
  }

  Place number(Place at) const {
    for (int digits = 1; digits < rules.digits; ++digits) {
      const Seen seen = look(at);
      if (!(seen.kind & kNumber)) break;
      at += seen.size;
    }
    return at;
  }

  /// "S?C*s+" else "S?C+s*" (S: a sign or space, C and s: capitals and small letters, which share the caseless ones and
  /// marks). Of "C*s+" only this backtracks: capitals not followed by a small letter give letters back up to the last
  /// that is caseless or a mark. With the sign is tried before without it; they differ for marks, which are both.
  Place cased_word(Place at, Seen first) const {
    const bool sign = !(first.kind & (kLetter | kNumber | kNewline));
    const bool letter = first.kind & (kCapitals | kSmall);
    const Place rest = at + first.size;
    Place capitals_rest = rest, capitals = at;
    if (sign)
      if (const Place end = small_end(rest, capitals_rest)) return end;
    if (!letter) return sign && capitals_rest != rest ? capitals_rest : nullptr;
    if (const Place end = small_end(at, capitals)) return end;
    return sign && capitals_rest != rest ? capitals_rest : capitals;
  }
  Place small_end(Place at, Place& capitals_end) const {
    Place last_shared = nullptr;
    for (Seen seen = look(at);; seen = look(at)) {
      if (seen.kind & kLower) return skip<kSmall>(at);
      if (!(seen.kind & kCapitals)) break;
      at += seen.size;
      if (seen.kind & kSmall) last_shared = at;
    }
    capitals_end = at;
    return last_shared;
  }

  Place tail(Place at) const {
    if constexpr (rules.tail != SplitRules::Tail::none)
      while (at < end_ &&
             (*at == '\r' || *at == '\n' || (rules.tail == SplitRules::Tail::newlines_and_slashes && *at == '/')))
        ++at;
    return at;
  }

  /// White space: up to its last line end; else, when a word follows, all but the last character, which the word may
  /// take; else all.
  Place blank(Place at) const {
    Place run = at, last = at, line_end = nullptr;
    for (Seen seen = look(run); seen.kind & kBlank; seen = look(run)) {
      last = run;
      run += seen.size;
      if (!kGpt2 && (seen.kind & kNewline)) line_end = run;
    }
    if (rules.whole_end && run == end_) return run;
    if (line_end) return line_end;
    return run == end_ || last == at ? run : last;
  }

  /// Past 's 't 're 've 'm 'll 'd; `at` itself when there is none. The long s (U+017F) is a small letter of S.
  Place contraction(Place at) const {
    if (rules.contraction == Contraction::none || end_ - at < 2 || *at != '\'') return at;
    const auto letter = [&](int i) {
      if (at + i >= end_) return 0;
      return rules.contraction == Contraction::exact ? at[i] : at[i] | 0x20;
    };
    const int first = letter(1), second = letter(2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
      return at + 3;
    const bool long_s = rules.contraction == Contraction::any_case && end_ - at >= 3 && at[1] == 0xc5 && at[2] == 0xbf;
    return long_s ? at + 3 : at;
  }

  const CharacterClasses& classes_ = character_classes();
  Place end_ = nullptr;
};

}  // namespace split_detail
}  // namespace capstan
