#include "io/tokenizer/normalizer.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <utility>

#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/characters.h"
#include "io/tokenizer/regular_expression.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

/// Where `first` finds the first character that changes; `append` writes what becomes of a character.
template <typename Changes, typename Append>
bool map_characters(std::string_view text, std::string& out, Changes&& changes, Append&& append) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Char c = utf8_at(text, at);
    if (c.good && changes(c.value)) break;
    at += c.size;
  }
  if (at == text.size()) return false;
  out.reserve(text.size() + text.size() / 8);
  out = text.substr(0, at);
  for (; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    if (c.good && changes(c.value))
      append(c.value, out);
    else
      out += text.substr(at, c.size);
    at += c.size;
  }
  return true;
}

class LowercaseStep final : public NormalizerStep {
 public:
  bool run(std::string_view text, std::string& out) override {
    const auto changes = [](char32_t c) {
      return c < 0x80 ? c >= 'A' && c <= 'Z' : u_tolower(static_cast<UChar32>(c)) != static_cast<UChar32>(c);
    };
    return map_characters(text, out, changes, [](char32_t c, std::string& to) {
      append_utf8(to, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
      if (c == 0x130) append_utf8(to, 0x307);  // the only character whose lower case is two
    });
  }
};

/// Drops characters.
template <bool (*drop)(char32_t)>
class DropStep final : public NormalizerStep {
 public:
  bool run(std::string_view text, std::string& out) override {
    return map_characters(text, out, drop, [](char32_t, std::string&) {});
  }
};

bool nmt_drops(char32_t c) {
  return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

bool nmt_spaces(char32_t c) {
  return c == '\t' || c == '\n' || c == '\f' || c == '\r' || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
         c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
}

class NmtStep final : public NormalizerStep {
 public:
  bool run(std::string_view text, std::string& out) override {
    return map_characters(
        text, out, [](char32_t c) { return nmt_drops(c) || nmt_spaces(c); },
        [](char32_t c, std::string& to) {
          if (nmt_spaces(c)) to += ' ';
        });
  }
};

bool bert_drops(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return c == 0 || c == 0xFFFD || is_other(c);
}

bool bert_spaces(char32_t c) { return c != ' ' && is_white_space(c); }

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

class BertCleanStep final : public NormalizerStep {
 public:
  bool run(std::string_view text, std::string& out) override {
    return map_characters(
        text, out, [](char32_t c) { return bert_drops(c) || bert_spaces(c); },
        [](char32_t c, std::string& to) {
          if (!bert_drops(c)) to += ' ';
        });
  }
};

class BertChineseStep final : public NormalizerStep {
 public:
  bool run(std::string_view text, std::string& out) override {
    return map_characters(text, out, is_chinese, [](char32_t c, std::string& to) {
      to += ' ';
      append_utf8(to, c);
      to += ' ';
    });
  }
};

class StripSpaceStep final : public NormalizerStep {
 public:
  explicit StripSpaceStep(const StripSpace& part) : part_(part) {}
  bool run(std::string_view text, std::string& out) override {
    size_t begin = 0, end = text.size(), space_from = text.size();
    bool in_front = true, in_space = false;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = utf8_at(text, at);
      const bool space = c.good && is_white_space(c.value);
      if (space && !in_space) space_from = at;
      in_space = space;
      if (!space && in_front) begin = at, in_front = false;
      at += c.size;
    }
    if (in_front) begin = text.size();
    if (in_space) end = space_from;
    if (!part_.left) begin = 0;
    if (!part_.right) end = text.size();
    if (begin == 0 && end == text.size()) return false;
    out = begin < end ? text.substr(begin, end - begin) : std::string_view();
    return true;
  }

 private:
  StripSpace part_;
};

class ReplaceStep final : public NormalizerStep {
 public:
  ReplaceStep(const Replace& part, const std::string& where) : content_(part.content) {
    if (part.pattern.regex || part.pattern.text.empty())
      expression_ = std::make_unique<RegularExpression>(part.pattern.text, where);
    else
      text_ = part.pattern.text;
  }
  bool run(std::string_view text, std::string& out) override {
    matches_.clear();
    if (expression_) {
      expression_->find_all(text, matches_);
    } else {
      for (size_t at = text.find(text_); at != text.npos; at = text.find(text_, at + text_.size()))
        matches_.push_back({at, at + text_.size()});
    }
    if (matches_.empty()) return false;
    size_t done = 0;
    for (const TextRange& match : matches_) {
      out += text.substr(done, match.begin - done);
      out += content_;
      done = match.end;
    }
    out += text.substr(done);
    return true;
  }

 private:
  std::unique_ptr<RegularExpression> expression_;
  std::string text_, content_;
  std::vector<TextRange> matches_;
};

class PrependStep final : public NormalizerStep {
 public:
  explicit PrependStep(std::string text) : text_(std::move(text)) {}
  bool run(std::string_view text, std::string& out) override {
    if (text.empty()) return false;
    out = text_;
    out += text;
    return true;
  }

 private:
  std::string text_;
};

class ByteSymbolStep final : public NormalizerStep {
 public:
  bool run(std::string_view text, std::string& out) override {
    append_byte_symbols(out, text);
    return true;
  }
};

}  // namespace

Normalizer::Normalizer(const std::vector<NormalizerSpec>& parts, const std::string& where) {
  const auto add = [&](std::unique_ptr<NormalizerStep> step, bool prefix = false, bool drops = false) {
    steps_.push_back({std::move(step), prefix, drops});
  };
  for (const NormalizerSpec& part : parts) {
    if (const auto* form = std::get_if<UnicodeForm>(&part)) {
      add(make_unicode_form(form->form));
    } else if (std::get_if<Lowercase>(&part)) {
      add(std::make_unique<LowercaseStep>());
    } else if (std::get_if<Nmt>(&part)) {
      add(std::make_unique<NmtStep>(), false, true);
    } else if (std::get_if<StripAccents>(&part)) {
      add(std::make_unique<DropStep<is_combining_mark>>(), false, true);
    } else if (std::get_if<ByteLevelNormalizer>(&part)) {
      add(std::make_unique<ByteSymbolStep>());
    } else if (const auto* strip = std::get_if<StripSpace>(&part)) {
      add(std::make_unique<StripSpaceStep>(*strip), false, true);
    } else if (const auto* replace = std::get_if<Replace>(&part)) {
      add(std::make_unique<ReplaceStep>(*replace, where));
    } else if (const auto* prepend = std::get_if<Prepend>(&part)) {
      add(std::make_unique<PrependStep>(prepend->text), true);
    } else if (const auto* map = std::get_if<Precompiled>(&part)) {
      if (!map->charsmap.empty()) add(make_precompiled(map->charsmap, where));
    } else if (const auto* bert = std::get_if<BertNormalizer>(&part)) {
      if (bert->clean_text) add(std::make_unique<BertCleanStep>(), false, true);
      if (bert->handle_chinese_chars) add(std::make_unique<BertChineseStep>());
      if (bert->strip_accents.value_or(bert->lowercase)) {
        add(make_unicode_form(UnicodeForm::Form::nfd));
        add(std::make_unique<DropStep<is_nonspacing_mark>>(), false, true);
      }
      if (bert->lowercase) add(std::make_unique<LowercaseStep>());
    }
  }
}

Normalizer::~Normalizer() = default;
Normalizer::Normalizer(Normalizer&&) noexcept = default;

std::string_view Normalizer::run(std::string_view text, bool begins, bool& front_kept) {
  front_kept = true;
  int target = 0;
  for (Step& step : steps_) {
    if (step.prefix && !begins) continue;
    std::string& out = scratch_[target];
    out.clear();
    if (!step.step->run(text, out)) continue;
    if (step.drops && !text.empty() && (out.empty() || out[0] != text[0])) front_kept = false;
    text = out;
    target = 1 - target;
  }
  return text;
}

}  // namespace capstan
