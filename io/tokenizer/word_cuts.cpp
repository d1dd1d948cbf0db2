#include "io/tokenizer/word_cuts.h"

#include <unicode/uscript.h>

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/characters.h"
#include "io/tokenizer/regular_expression.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

struct Stretch {
  size_t begin, end;
  bool match;
};

/// Stretches that cover a word, matched or not, then joined or dropped as the behaviour says.
class CutStep : public WordStep {
 public:
  CutStep(SplitBehavior behavior, bool invert, bool separates_lines)
      : behavior_(behavior), invert_(invert), separates_lines_(separates_lines) {}

  void run(Words& words) final {
    result_.clear();
    for (const Word& word : words.words) {
      const std::string_view text = words.text.substr(word.begin, word.end - word.begin);
      stretches_.clear();
      matches_.clear();
      find(text, matches_);
      size_t done = 0;
      for (const TextRange& match : matches_) {
        if (done != match.begin) stretches_.push_back({done, match.begin, invert_});
        stretches_.push_back({match.begin, match.end, !invert_});
        done = match.end;
      }
      if (done != text.size()) stretches_.push_back({done, text.size(), invert_});
      emit(word);
    }
    words.words.swap(result_);
    if (separates_lines_) words.joined = false;
  }

 protected:
  virtual void find(std::string_view text, std::vector<TextRange>& matches) = 0;

 private:
  void add(const Word& word, size_t begin, size_t end) {
    if (begin == end) return;
    result_.push_back(
        {static_cast<uint32_t>(word.begin + begin), static_cast<uint32_t>(word.begin + end), word.front && begin == 0});
  }

  void emit(const Word& word) {
    switch (behavior_) {
      case SplitBehavior::isolated:
        for (const Stretch& part : stretches_) add(word, part.begin, part.end);
        return;
      case SplitBehavior::removed:
        for (const Stretch& part : stretches_)
          if (!part.match) add(word, part.begin, part.end);
        return;
      case SplitBehavior::contiguous:
        return join(word, [](bool match, bool before) { return match == before; });
      case SplitBehavior::merged_with_previous:
        return join(word, [](bool match, bool before) { return match && !before; });
      case SplitBehavior::merged_with_next:
        return join_backwards(word);
    }
  }

  /// A stretch joins the one before when `joins` says so.
  template <typename Joins>
  void join(const Word& word, Joins&& joins) {
    bool before = false;
    size_t kept = 0;
    for (size_t i = 0; i < stretches_.size(); ++i) {
      const Stretch part = stretches_[i];
      if (kept > 0 && joins(part.match, before))
        stretches_[kept - 1].end = part.end;
      else
        stretches_[kept++] = part;
      before = part.match;
    }
    for (size_t i = 0; i < kept; ++i) add(word, stretches_[i].begin, stretches_[i].end);
  }

  void join_backwards(const Word& word) {
    bool after = false;
    size_t kept = stretches_.size();
    for (size_t i = stretches_.size(); i-- > 0;) {
      const Stretch part = stretches_[i];
      if (kept < stretches_.size() && part.match && !after)
        stretches_[kept].begin = part.begin;
      else
        stretches_[--kept] = part;
      after = part.match;
    }
    for (size_t i = kept; i < stretches_.size(); ++i) add(word, stretches_[i].begin, stretches_[i].end);
  }

  SplitBehavior behavior_;
  bool invert_, separates_lines_;
  std::vector<Stretch> stretches_;
  std::vector<TextRange> matches_;
  std::vector<Word> result_;
};

class RegexCut final : public CutStep {
 public:
  RegexCut(const std::string& expression, SplitBehavior behavior, bool invert, const std::string& where)
      : CutStep(behavior, invert, false), expression_(expression, where) {}

 private:
  void find(std::string_view text, std::vector<TextRange>& matches) override { expression_.find_all(text, matches); }
  RegularExpression expression_;
};

class LiteralCut final : public CutStep {
 public:
  LiteralCut(std::string text, SplitBehavior behavior, bool invert)
      : CutStep(behavior, invert, false), text_(std::move(text)) {}

 private:
  void find(std::string_view text, std::vector<TextRange>& matches) override {
    for (size_t at = text.find(text_); at != text.npos; at = text.find(text_, at + text_.size()))
      matches.push_back({at, at + text_.size()});
  }
  std::string text_;
};

/// Each character of the class is a match of its own.
template <bool (*member)(char32_t)>
class ClassCut final : public CutStep {
 public:
  ClassCut(SplitBehavior behavior, bool separates_lines) : CutStep(behavior, false, separates_lines) {}

 private:
  void find(std::string_view text, std::vector<TextRange>& matches) override {
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = utf8_at(text, at);
      if (c.good && member(c.value)) matches.push_back({at, at + c.size});
      at += c.size;
    }
  }
};

/// \w+|[^\w\s]+, everything between them dropped.
class WordsAndSignsCut final : public CutStep {
 public:
  WordsAndSignsCut() : CutStep(SplitBehavior::removed, true, true) {}

 private:
  static int kind_of(const Utf8Char& c) {
    if (c.good && is_word_character(c.value)) return 1;
    return c.good && is_white_space(c.value) ? 0 : 2;
  }
  void find(std::string_view text, std::vector<TextRange>& matches) override {
    int before = 0;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = utf8_at(text, at);
      const int kind = kind_of(c);
      if (kind != 0 && kind == before)
        matches.back().end += c.size;
      else if (kind != 0)
        matches.push_back({at, at + c.size});
      before = kind;
      at += c.size;
    }
  }
};

/// Cuts where the script changes; spaces go with what is before them, and those in front are dropped.
class ScriptCut final : public CutStep {
 public:
  ScriptCut() : CutStep(SplitBehavior::removed, true, false) {}

 private:
  void find(std::string_view text, std::vector<TextRange>& matches) override {
    constexpr int32_t kNoneYet = -1, kAny = USCRIPT_UNKNOWN;
    int32_t last = kNoneYet;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = utf8_at(text, at);
      const int32_t script = c.value == ' ' ? kAny : c.good ? script_of(c.value) : int32_t{USCRIPT_COMMON};
      if (script != kAny && script != last) {
        if (!matches.empty()) matches.back().end = at;
        matches.push_back({at, text.size()});
        last = script;
      }
      at += c.size;
    }
  }
};

class FixedLengthCut final : public CutStep {
 public:
  explicit FixedLengthCut(uint64_t length) : CutStep(SplitBehavior::isolated, false, false), length_(length) {}

 private:
  void find(std::string_view text, std::vector<TextRange>& matches) override {
    uint64_t count = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t size = utf8_at(text, at).size;
      if (count++ % length_ == 0)
        matches.push_back({at, at + size});
      else
        matches.back().end += size;
      at += size;
    }
  }
  uint64_t length_;
};

bool is_white(char32_t c) { return is_white_space(c); }

}  // namespace

std::unique_ptr<WordStep> make_literal_cut(const std::string& text, SplitBehavior behavior, bool invert) {
  return std::make_unique<LiteralCut>(text, behavior, invert);
}

void add_word_cuts(const PreTokenizerSpec& part, const std::string& where,
                   std::vector<std::unique_ptr<WordStep>>& steps) {
  if (const auto* split = std::get_if<PatternSplit>(&part)) {
    if (split->pattern.regex || split->pattern.text.empty())
      steps.push_back(std::make_unique<RegexCut>(split->pattern.text, split->behavior, split->invert, where));
    else
      steps.push_back(make_literal_cut(split->pattern.text, split->behavior, split->invert));
  } else if (std::get_if<BertSplit>(&part)) {
    steps.push_back(std::make_unique<ClassCut<is_white>>(SplitBehavior::removed, true));
    steps.push_back(std::make_unique<ClassCut<is_punctuation>>(SplitBehavior::isolated, false));
  } else if (std::get_if<WordsAndSigns>(&part)) {
    steps.push_back(std::make_unique<WordsAndSignsCut>());
  } else if (std::get_if<WhitespaceSplit>(&part)) {
    steps.push_back(std::make_unique<ClassCut<is_white>>(SplitBehavior::removed, true));
  } else if (std::get_if<UnicodeScripts>(&part)) {
    steps.push_back(std::make_unique<ScriptCut>());
  } else if (const auto* digits = std::get_if<Digits>(&part)) {
    steps.push_back(std::make_unique<ClassCut<is_numeric>>(
        digits->individual ? SplitBehavior::isolated : SplitBehavior::contiguous, false));
  } else if (const auto* signs = std::get_if<Punctuation>(&part)) {
    steps.push_back(std::make_unique<ClassCut<is_punctuation>>(signs->behavior, false));
  } else if (const auto* delimiter = std::get_if<DelimiterSplit>(&part)) {
    steps.push_back(make_literal_cut(delimiter->delimiter, SplitBehavior::removed, false));
  } else if (const auto* fixed = std::get_if<FixedLength>(&part)) {
    steps.push_back(std::make_unique<FixedLengthCut>(fixed->length));
  } else {
    throw Error::make(ExitCode::internal, "{}: a pre-tokenizer that does not cut", where);
  }
}

}  // namespace capstan
