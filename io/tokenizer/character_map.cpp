#include "io/tokenizer/character_map.h"

#include <unicode/brkiter.h>
#include <unicode/utext.h>

#include <cstring>

#include "core/error.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr size_t kLongestKey = 6;  // a longer grapheme is mapped character by character

// A unit: bits 0-7 label, 8 has a value, 9 wide offset, 10-30 offset, 31 marks a value.
uint32_t offset_of(uint32_t unit) { return unit >> 10 << ((unit & 512u) >> 6); }
uint32_t label_of(uint32_t unit) { return unit & 0x800000FFu; }

/// As Hugging Face applies a character map: to whole graphemes when they are short, taking the first entry that begins
/// them, else to their characters.
class PrecompiledStep final : public NormalizerStep {
 public:
  PrecompiledStep(const std::string& charsmap, const std::string& where) : map_(charsmap, where) {
    UErrorCode status = U_ZERO_ERROR;
    graphemes_.reset(icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
    CAPSTAN_CHECK(U_SUCCESS(status), "ICU has no rules for graphemes: {}", u_errorName(status));
  }

  bool run(std::string_view text, std::string& out) override {
    bool changed = false;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(first_bad_utf8(text.substr(at)), text.size() - at) + at;
      if (end > at) changed = map_good(text.substr(at, end - at), out) || changed;
      at = end;
      if (at < text.size()) out += text[at++];
    }
    return changed;
  }

 private:
  bool map_good(std::string_view text, std::string& out) {
    UErrorCode status = U_ZERO_ERROR;
    UText opened = UTEXT_INITIALIZER;
    bool ready = false, changed = false;
    for (size_t at = 0; at < text.size();) {
      size_t end = at + 1;
      if (!stands_alone(text, at)) {
        if (!ready) {
          utext_openUTF8(&opened, text.data(), static_cast<int64_t>(text.size()), &status);
          graphemes_->setText(&opened, status);
          CAPSTAN_CHECK(U_SUCCESS(status), "ICU cannot walk a text: {}", u_errorName(status));
          ready = true;
        }
        const int32_t next = graphemes_->following(static_cast<int32_t>(at));
        end = next == icu::BreakIterator::DONE ? text.size() : static_cast<size_t>(next);
      }
      changed = map_grapheme(text.substr(at, end - at), out) || changed;
      at = end;
    }
    if (ready) utext_close(&opened);
    return changed;
  }

  /// An ASCII character before another one is a grapheme, but for CR LF.
  static bool stands_alone(std::string_view text, size_t at) {
    const auto ascii = [&](size_t i) { return i >= text.size() || static_cast<unsigned char>(text[i]) < 0x80; };
    return ascii(at) && ascii(at + 1) && text[at] != '\r';
  }

  bool map_grapheme(std::string_view grapheme, std::string& out) {
    if (grapheme.size() < kLongestKey) {
      if (const auto match = map_.find(grapheme, 0, false)) {
        out += match->replacement;
        return true;
      }
    }
    bool changed = false;
    for (size_t at = 0; at < grapheme.size();) {
      const size_t size = utf8_at(grapheme, at).size;
      const std::string_view c = grapheme.substr(at, size);
      if (const auto match = map_.find(c, 0, false)) {
        out += match->replacement;
        changed = true;
      } else {
        out += c;
      }
      at += size;
    }
    return changed;
  }

  CharacterMap map_;
  std::unique_ptr<icu::BreakIterator> graphemes_;
};

}  // namespace

CharacterMap::CharacterMap(const std::string& charsmap, const std::string& where) {
  uint32_t bytes = 0;
  if (charsmap.size() >= 4) std::memcpy(&bytes, charsmap.data(), 4);
  if (charsmap.size() < 4 || bytes % 4 != 0 || bytes == 0 || bytes > charsmap.size() - 4)
    throw Error::make(ExitCode::bad_data, "{}: a character map of {} bytes cannot hold a trie of {} bytes", where,
                      charsmap.size(), bytes);
  units_.resize(bytes / 4);
  std::memcpy(units_.data(), charsmap.data() + 4, bytes);
  replacements_ = charsmap.substr(4 + bytes) + '\0';
}

std::optional<CharacterMap::Match> CharacterMap::find(std::string_view text, size_t at, bool longest) const {
  std::optional<Match> found;
  if (units_.empty()) return found;
  size_t node = offset_of(units_[0]);
  for (size_t i = at; i < text.size() && text[i] != '\0'; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    if (node >= units_.size() || label_of(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if ((unit & 256u) == 0) continue;
    if (node >= units_.size()) break;
    const size_t place = units_[node] & 0x7FFFFFFFu;
    if (place >= replacements_.size()) break;
    found = Match{i + 1 - at, std::string_view(replacements_.c_str() + place)};
    if (!longest) break;
  }
  return found;
}

std::unique_ptr<NormalizerStep> make_precompiled(const std::string& charsmap, const std::string& where) {
  return std::make_unique<PrecompiledStep>(charsmap, where);
}

}  // namespace capstan
