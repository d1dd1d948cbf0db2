// The four normalization forms of Unicode, by ICU. A text that is all ASCII is seen to be normalized at a glance,
// others by ICU's quick check. ICU puts combining marks into order by insertion, which takes quadratic time on a long
// run of them; such runs are decomposed and sorted here first, which changes no result and leaves ICU nothing to move.

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr size_t kLongRun = 64;             // marks
constexpr size_t kChunk = size_t{1} << 28;  // bytes: ICU counts in 32 bits
using Form = UnicodeForm::Form;

const icu::Normalizer2* instance(Form form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* found = nullptr;
  if (form == Form::nfc) found = icu::Normalizer2::getNFCInstance(status);
  if (form == Form::nfd) found = icu::Normalizer2::getNFDInstance(status);
  if (form == Form::nfkc) found = icu::Normalizer2::getNFKCInstance(status);
  if (form == Form::nfkd) found = icu::Normalizer2::getNFKDInstance(status);
  CAPSTAN_CHECK(U_SUCCESS(status) && found != nullptr, "ICU has no normalization data: {}", u_errorName(status));
  return found;
}

class UnicodeStep final : public NormalizerStep {
 public:
  explicit UnicodeStep(Form form)
      : composed_(instance(form)),
        decomposed_(instance(form == Form::nfc || form == Form::nfd ? Form::nfd : Form::nfkd)),
        always_below_(form == Form::nfc ? 0xCC : 0x80) {}

  bool run(std::string_view text, std::string& out) override {
    if (std::all_of(text.begin(), text.end(), [&](char c) { return static_cast<unsigned char>(c) < always_below_; }) &&
        (always_below_ == 0x80 || first_bad_utf8(text) == text.npos))
      return false;
    bool changed = false;
    for (size_t at = 0; at < text.size();) {  // stretches of good text between bad bytes
      size_t end = std::min(first_bad_utf8(text.substr(at)), text.size() - at) + at;
      if (end - at > kChunk) end = cut(text, at);
      if (end > at) changed = normalize(text.substr(at, end - at), out) || changed;
      at = end;
      if (at < text.size() && !utf8_at(text, at).good) out += text[at++];
    }
    return changed;
  }

 private:
  /// Before a character with which nothing combines.
  size_t cut(std::string_view text, size_t at) const {
    size_t end = at + kChunk;
    while (end < text.size() && end - at < 2 * kChunk && static_cast<unsigned char>(text[end]) >= 0x80) ++end;
    return end;
  }

  /// Appends; says whether the text changed.
  bool normalize(std::string_view text, std::string& out) {
    UErrorCode status = U_ZERO_ERROR;
    sorted_.clear();
    const std::string_view ready = sort_long_runs(text, sorted_) ? std::string_view(sorted_) : text;
    const icu::StringPiece piece(ready.data(), static_cast<int32_t>(ready.size()));
    if (composed_->isNormalizedUTF8(piece, status) && U_SUCCESS(status)) {
      out += ready;
      return ready.data() != text.data();
    }
    status = U_ZERO_ERROR;
    icu::StringByteSink<std::string> sink(&out);
    composed_->normalizeUTF8(0, piece, sink, nullptr, status);
    CAPSTAN_CHECK(U_SUCCESS(status), "ICU cannot normalize: {}", u_errorName(status));
    return true;
  }

  /// False when there is no long run of marks.
  bool sort_long_runs(std::string_view text, std::string& out) const {
    size_t done = 0, run_begin = 0, run = 0;
    const auto close = [&](size_t end) {
      if (run > kLongRun) {
        out += text.substr(done, run_begin - done);
        sort_marks(text.substr(run_begin, end - run_begin), out);
        done = end;
      }
      run = 0;
    };
    for (size_t at = 0; at < text.size();) {
      if (static_cast<unsigned char>(text[at]) < 0xCC) {  // below U+0300: no marks
        if (run > 0) close(at);
        at += utf8_at(text, at).size;
        continue;
      }
      const Utf8Char c = utf8_at(text, at);
      if (u_getCombiningClass(static_cast<UChar32>(c.value)) == 0) {
        if (run > 0) close(at);
      } else if (run++ == 0) {
        run_begin = at;
      }
      at += c.size;
    }
    close(text.size());
    if (done == 0) return false;
    out += text.substr(done);
    return true;
  }

  void sort_marks(std::string_view marks, std::string& out) const {
    std::vector<std::pair<uint8_t, char32_t>> parts;
    icu::UnicodeString whole;
    const auto add = [&](UChar32 c) { parts.emplace_back(u_getCombiningClass(c), static_cast<char32_t>(c)); };
    for (size_t at = 0; at < marks.size();) {
      const Utf8Char c = utf8_at(marks, at);
      at += c.size;
      if (!decomposed_->getDecomposition(static_cast<UChar32>(c.value), whole)) {
        add(static_cast<UChar32>(c.value));
        continue;
      }
      for (int32_t i = 0; i < whole.length(); i = whole.moveIndex32(i, 1)) add(whole.char32At(i));
    }
    std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [order, c] : parts) append_utf8(out, c);
  }

  const icu::Normalizer2* composed_;
  const icu::Normalizer2* decomposed_;
  unsigned char always_below_;
  std::string sorted_;
};

}  // namespace

std::unique_ptr<NormalizerStep> make_unicode_form(Form form) { return std::make_unique<UnicodeStep>(form); }

}  // namespace capstan
