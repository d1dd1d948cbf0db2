// Ruby's dialect to PCRE2's, character by character. What has no counterpart is refused rather than misread.

#include <fmt/format.h>

#include <charconv>

#include "core/error.h"
#include "io/tokenizer/regular_expression.h"

namespace capstan {
namespace {

// PCRE2's own \s has U+180E in it and its \w differs between versions, so both are spelt out.
constexpr std::string_view kSpace = "\\t-\\r\\x{85}\\p{Z}";
constexpr std::string_view kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{"
    "1F189}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
constexpr std::string_view kHex = "0-9a-fA-F";
constexpr int kDeepestClass = 16;

class Translator {
 public:
  Translator(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::string run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\\')
        escape(false);
      else if (c == '[')
        character_class(0);
      else if (c == '(')
        group();
      else if (c == '{')
        interval();
      else
        copy(1);
    }
    return std::move(out_);
  }

 private:
  Error bad(const std::string& why) const {
    return Error::make(ExitCode::bad_data, "{}: the expression \"{}\": {}", where_, text_.substr(0, 200), why);
  }
  bool next_is(std::string_view what) const { return text_.substr(at_, what.size()) == what; }
  void copy(size_t count) {
    out_ += text_.substr(at_, count);
    at_ += count;
  }
  void put(std::string_view members, bool in_class, bool negated) {
    at_ += 2;
    if (in_class)
      out_ += members;
    else
      out_.append(negated ? "[^" : "[").append(members).append("]");
  }

  void escape(bool in_class) {
    if (at_ + 1 >= text_.size()) throw bad("ends in a backslash");
    const char kind = text_[at_ + 1];
    if (kind == 's') return put(kSpace, in_class, false);
    if (kind == 'w') return put(kWord, in_class, false);
    if (kind == 'h') return put(kHex, in_class, false);
    if (kind == 'H' && in_class) throw bad("\\H inside a class is not supported");
    if (!in_class && kind == 'S') return put(kSpace, false, true);
    if (!in_class && kind == 'W') return put(kWord, false, true);
    if (!in_class && kind == 'H') return put(kHex, false, true);
    if (kind == 'u' && at_ + 6 <= text_.size()) {
      out_.append("\\x{").append(text_.substr(at_ + 2, 4)).append("}");
      at_ += 6;
      return;
    }
    copy(2);
  }

  /// Classes inside a class are united with it: their brackets are dropped.
  void character_class(int depth) {
    if (depth > kDeepestClass) throw bad("classes nest too deep");
    if (depth == 0)
      copy(1);
    else
      ++at_;
    if (next_is("^")) {
      if (depth > 0) throw bad("a negated class inside a class is not supported");
      copy(1);
    }
    for (bool first = true;; first = false) {
      if (at_ >= text_.size()) throw bad("a class without its ]");
      const char c = text_[at_];
      if (c == ']' && !first) break;
      if (c == '\\') {
        escape(true);
      } else if (next_is("[:")) {
        const size_t end = text_.find(":]", at_);
        if (end == text_.npos) throw bad("a class name without its :]");
        copy(end + 2 - at_);
      } else if (c == '[') {
        character_class(depth + 1);
      } else if (next_is("&&")) {
        throw bad("intersections of classes (&&) are not supported");
      } else if (c == ']' || (c == '-' && depth > 0 && (first || text_.substr(at_ + 1, 1) == "]"))) {
        out_ += '\\';
        copy(1);
      } else {
        copy(1);
      }
    }
    if (depth == 0)
      copy(1);
    else
      ++at_;
  }

  /// (?m) of Ruby is (?s) of everybody else.
  void group() {
    if (next_is("(*")) throw bad("nothing to repeat after a bracket");
    copy(1);
    if (!next_is("?")) return;
    size_t end = at_ + 1;
    while (end < text_.size() && std::string_view("imx-").find(text_[end]) != std::string_view::npos) ++end;
    if (end == text_.size() || (text_[end] != ':' && text_[end] != ')')) return;
    for (; at_ < end; ++at_) out_ += text_[at_] == 'm' ? 's' : text_[at_];
  }

  bool number(size_t& at, uint32_t& value) const {
    const char* begin = text_.data() + at;
    const auto [end, problem] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (problem != std::errc() || end == begin) return false;
    at += static_cast<size_t>(end - begin);
    return true;
  }

  /// {n,m}+ repeats the repetition: any number from n on, when the gaps between its multiples close.
  void interval() {
    size_t at = at_ + 1;
    uint32_t least = 0, most = 0;
    const bool has_least = number(at, least);
    bool has_most = has_least;
    most = least;
    if (at < text_.size() && text_[at] == ',') has_most = number(++at, most);
    if ((!has_least && !has_most) || at >= text_.size() || text_[at] != '}') return copy(1);
    const bool open = !has_most;
    at_ = at + 1;
    if (next_is("+")) {
      ++at_;
      const bool closes = open || least <= 1 || most + 1 >= 2 * least;
      if (!closes || (!open && most == 0)) throw bad("a repetition of this interval is not supported");
      out_ += fmt::format("{{{},}}", least);
    } else {
      out_ += open ? fmt::format("{{{},}}", least) : fmt::format("{{{},{}}}", least, most);
    }
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string ruby_to_pcre(std::string_view expression, const std::string& where) {
  return Translator(expression, where).run();
}

}  // namespace capstan
