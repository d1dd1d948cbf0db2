#include "io/tokenizer/pre_tokenizer.h"

#include "core/error.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/characters.h"
#include "io/tokenizer/regular_expression.h"
#include "io/tokenizer/splitter.h"
#include "io/tokenizer/utf8.h"
#include "io/tokenizer/word_cuts.h"

namespace capstan {
namespace {

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

bool takes_everything(const PatternSplit& split) {
  if (!split.pattern.regex) return false;
  return split.behavior == SplitBehavior::isolated || (split.behavior == SplitBehavior::removed && split.invert);
}

/// Cuts by an expression of which every character of the text matches some part.
class SplitterStep final : public WordStep {
 public:
  explicit SplitterStep(std::unique_ptr<Splitter> splitter) : splitter_(std::move(splitter)) {}
  void run(Words& words) override {
    result_.clear();
    for (const Word& word : words.words) {
      ends_.clear();
      splitter_->split(words.text.substr(word.begin, word.end - word.begin), ends_);
      uint32_t begin = word.begin;
      for (const uint32_t end : ends_) {
        if (word.begin + end == begin) continue;
        result_.push_back({begin, word.begin + end, word.front && begin == word.begin});
        begin = word.begin + end;
      }
    }
    words.words.swap(result_);
    words.joined = false;
  }

 private:
  std::unique_ptr<Splitter> splitter_;
  std::vector<uint32_t> ends_;
  std::vector<Word> result_;
};

/// A prefix in front of words, a replacement for the space within them; or symbols for bytes.
class RewriteStep : public WordStep {
 public:
  void run(Words& words) final {
    std::string& out = buffers_[turn_ = 1 - turn_];
    out.clear();
    for (size_t i = 0; i < words.words.size(); ++i) {
      Word& word = words.words[i];
      const auto begin = static_cast<uint32_t>(out.size());
      rewrite(words.text.substr(word.begin, word.end - word.begin), word.front, words.joined && i == 0, out);
      CAPSTAN_CHECK(out.size() <= UINT32_MAX, "a text of more than 4 GiB reached the pre-tokenizer");
      word.begin = begin;
      word.end = static_cast<uint32_t>(out.size());
    }
    words.text = out;
  }

 private:
  virtual void rewrite(std::string_view word, bool front, bool joined, std::string& out) = 0;
  std::string buffers_[2];
  int turn_ = 0;
};

class PrefixSpaceStep final : public RewriteStep {
  void rewrite(std::string_view word, bool, bool joined, std::string& out) override {
    if (!joined && word[0] != ' ') out += ' ';
    out += word;
  }
};

class ByteWordStep final : public RewriteStep {
  void rewrite(std::string_view word, bool, bool, std::string& out) override { append_byte_symbols(out, word); }
};

class MetaspaceStep final : public RewriteStep {
 public:
  explicit MetaspaceStep(const Metaspace& part) : part_(part) {}

 private:
  void rewrite(std::string_view word, bool front, bool joined, std::string& out) override {
    const std::string& sign = part_.replacement;
    const bool wanted =
        part_.scheme == Metaspace::Scheme::always || (part_.scheme == Metaspace::Scheme::first && front);
    if (wanted && !joined && word[0] != ' ' && !word.starts_with(sign)) out += sign;
    for (const char c : word) {
      if (c == ' ')
        out += sign;
      else
        out += c;
    }
  }
  Metaspace part_;
};

}  // namespace

std::optional<std::string> only_known_expression(const std::vector<PreTokenizerSpec>& parts, bool bytes) {
  if (!bytes || parts.empty() || parts.size() > 2) return std::nullopt;
  const auto& last = std::get<ByteLevel>(parts.back());
  if (last.add_prefix_space) return std::nullopt;
  if (parts.size() == 1) {
    if (!last.use_regex || !known_splitter(kGpt2)) return std::nullopt;
    return kGpt2;
  }
  const auto* split = std::get_if<PatternSplit>(&parts[0]);
  if (split == nullptr || last.use_regex || !takes_everything(*split) || !known_splitter(split->pattern.text))
    return std::nullopt;
  return split->pattern.text;
}

PreTokenizer::PreTokenizer(const std::vector<PreTokenizerSpec>& parts, bool bytes, const std::string& where) {
  const auto cut_by = [&](const std::string& expression) {
    std::unique_ptr<Splitter> splitter = known_splitter(expression);
    if (!splitter) splitter = regex_splitter(expression, where);
    steps_.push_back(std::make_unique<SplitterStep>(std::move(splitter)));
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    if (const auto* level = std::get_if<ByteLevel>(&parts[i])) {
      if (level->add_prefix_space) steps_.push_back(std::make_unique<PrefixSpaceStep>());
      if (level->use_regex) cut_by(kGpt2);
      if (!bytes || i + 1 < parts.size()) steps_.push_back(std::make_unique<ByteWordStep>());
    } else if (const auto* space = std::get_if<Metaspace>(&parts[i])) {
      steps_.push_back(std::make_unique<MetaspaceStep>(*space));
      if (space->split) steps_.push_back(make_literal_cut(space->replacement, SplitBehavior::merged_with_next, false));
    } else if (const auto* split = std::get_if<PatternSplit>(&parts[i]);
               split != nullptr && takes_everything(*split) && known_splitter(split->pattern.text)) {
      cut_by(split->pattern.text);
    } else {
      add_word_cuts(parts[i], where, steps_);
    }
  }
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

void PreTokenizer::run(Words& words) {
  for (const std::unique_ptr<WordStep>& step : steps_) step->run(words);
}

LineCut line_cut_of(const std::vector<PreTokenizerSpec>& parts) {
  const auto changes_nothing = [](SplitBehavior behavior) {
    return behavior == SplitBehavior::isolated || behavior == SplitBehavior::contiguous ||
           behavior == SplitBehavior::removed;
  };
  for (const PreTokenizerSpec& part : parts) {
    if (const auto* level = std::get_if<ByteLevel>(&part)) {
      if (level->use_regex) return LineCut::between_words;
    } else if (const auto* split = std::get_if<PatternSplit>(&part)) {
      if (takes_everything(*split) && known_splitter(split->pattern.text)) return LineCut::between_words;
      return LineCut::unsafe;
    } else if (std::get_if<BertSplit>(&part) || std::get_if<WordsAndSigns>(&part) ||
               std::get_if<WhitespaceSplit>(&part)) {
      return LineCut::between_words;
    } else if (const auto* signs = std::get_if<Punctuation>(&part)) {
      if (!changes_nothing(signs->behavior)) return LineCut::unsafe;
    } else if (std::get_if<UnicodeScripts>(&part) || std::get_if<FixedLength>(&part)) {
      return LineCut::unsafe;
    } else if (const auto* delimiter = std::get_if<DelimiterSplit>(&part)) {
      if (delimiter->delimiter == "\n") return LineCut::between_words;
    }
  }
  return LineCut::inside_a_word;
}

}  // namespace capstan
