// Recognises expressions by their alternatives, so that spellings of one thing are listed once each, and not their
// combinations. Possessive forms stand here only where they mean the same as greedy ones.

#include <optional>
#include <utility>

#include "io/tokenizer/known_splitter_scan.h"

namespace capstan {
namespace {

using Contraction = SplitRules::Contraction;
using Tail = SplitRules::Tail;
using WordRule = SplitRules::Words;

struct Spelling {
  std::string_view text;
  char meaning;
};

constexpr std::pair<std::string_view, Contraction> kContractions[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d|)", Contraction::exact},
    {R"((?:'s|'t|'re|'ve|'m|'ll|'d)|)", Contraction::exact},
    {R"('(?:[sdmt]|ll|ve|re)|)", Contraction::exact},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|)", Contraction::any_case},
    {R"((?i)(?:'s|'t|'re|'ve|'m|'ll|'d)|)", Contraction::any_case},  // no other alternative minds case
    {R"('(?i:[sdmt]|ll|ve|re)|)", Contraction::any_case},
    {R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|)", Contraction::ascii_case},
    {R"('[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|)", Contraction::ascii_case},
};

constexpr Spelling kSpellings[] = {
    {R"( ?\p{L}+)", 'l'},
    {R"( ?\p{L}++)", 'l'},
    {R"( ?[\p{L}]+)", 'l'},
    {R"( ?\p{N}+)", 'n'},
    {R"( ?\p{N}++)", 'n'},
    {R"( ?[\p{N}]+)", 'n'},
    {R"( ?[^\s\p{L}\p{N}]+)", 's'},
    {R"( ?[^\s\p{L}\p{N}]++)", 's'},
    {R"([^\r\n\p{L}\p{N}]?\p{L}+)", 'L'},
    {R"([^\r\n\p{L}\p{N}]?+\p{L}+)", 'L'},
    {R"([^\r\n\p{L}\p{N}]?+\p{L}++)", 'L'},
    {R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+)", 'M'},
    {R"(\p{N}{1,3})", '3'},
    {R"(\p{N})", '1'},
    {R"( ?[^\s\p{L}\p{N}]+[\r\n]*)", 'S'},
    {R"( ?[^\s\p{L}\p{N}]++[\r\n]*)", 'S'},
    {R"( ?[^\s\p{L}\p{N}]++[\r\n]*+)", 'S'},
    {R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)", 'T'},
    {R"( ?[^\s\p{L}\p{N}]+[\r\n/]*)", '/'},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)", 'a'},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)", 'b'},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)",
     'A'},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)",
     'B'},
    {R"(\s++$)", '$'},
    {R"(\s*[\r\n]+)", 'r'},
    {R"(\s*[\r\n])", 'r'},
    {R"(\s+(?!\S))", 'w'},
    {R"(\s+)", 'x'},  // one character is left when the alternative before has failed
    {R"(\s)", 'x'},
};

struct SplitFamily {
  std::string_view meaning;
  SplitRules rules;
  bool contraction;  ///< begins with one of kContractions
};

constexpr SplitFamily kFamilies[] = {
    {"lnswx", {.words = WordRule::after_space}, true},                                       // GPT-2
    {"lns$wx", {.words = WordRule::after_space}, true},                                      // as tiktoken has it
    {"L3Srwx", {.words = WordRule::after_sign, .digits = 3, .tail = Tail::newlines}, true},  // cl100k, LLaMA 3
    {"L3S$rwx", {.words = WordRule::after_sign, .digits = 3, .tail = Tail::newlines, .whole_end = true}, true},
    {"L1Srwx", {.words = WordRule::after_sign, .digits = 1, .tail = Tail::newlines}, true},       // Qwen 2
    {"M1Trwx", {.words = WordRule::with_marks, .digits = 1, .tail = Tail::newlines}, true},       // Qwen 3.5
    {"AB3/rwx", {Contraction::any_case, WordRule::cased, 3, Tail::newlines_and_slashes}, false},  // o200k
    {"ab1/rwx", {Contraction::none, WordRule::cased, 1, Tail::newlines_and_slashes}, false},      // Tekken
};

constexpr std::pair<std::string_view, std::string_view> kNamed[] = {
    {"gpt2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {"cl100k",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"llama3",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen35",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"o200k",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"tekken", R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
               R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
               R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};

/// Each alternative as a letter; nothing when one is not known.
std::optional<std::string> meaning_of(std::string_view expression) {
  std::string meaning;
  size_t begin = 0;
  int depth = 0;
  for (size_t at = 0; at <= expression.size(); ++at) {
    const char c = at < expression.size() ? expression[at] : '|';
    depth += (c == '(' || c == '[') - (c == ')' || c == ']');  // no escaped bracket is in what is known
    if (c != '|' || (depth != 0 && at < expression.size())) continue;
    const std::string_view text = expression.substr(begin, at - begin);
    begin = at + 1;
    const Spelling* found = nullptr;
    for (const Spelling& spelling : kSpellings)
      if (spelling.text == text) found = &spelling;
    if (!found) return std::nullopt;
    meaning += found->meaning;
  }
  return meaning;
}

constexpr SplitRules rules_of(const SplitFamily& family, Contraction contraction) {
  SplitRules rules = family.rules;
  if (family.contraction) rules.contraction = contraction;
  return rules;
}

template <size_t... index>
std::unique_ptr<Splitter> make_scanner(size_t family, Contraction contraction, std::index_sequence<index...>) {
  std::unique_ptr<Splitter> splitter;
  const auto make = [&]<size_t i, Contraction c>() {
    if (i == family && (c == contraction || !kFamilies[i].contraction))
      splitter = std::make_unique<split_detail::Scanner<rules_of(kFamilies[i], c)>>();
  };
  (...,
   (make.template operator()<index, Contraction::exact>(), make.template operator()<index, Contraction::ascii_case>(),
    make.template operator()<index, Contraction::any_case>()));
  return splitter;
}

}  // namespace

std::string_view named_expression(std::string_view name) {
  for (const auto& [known, expression] : kNamed)
    if (known == name) return expression;
  return {};
}

std::unique_ptr<Splitter> known_splitter(std::string_view expression) {
  constexpr size_t kLongest = 1000, kCount = std::size(kFamilies);
  if (expression.size() > kLongest) return nullptr;
  Contraction contraction = Contraction::none;
  for (const auto& [text, kind] : kContractions) {
    if (!expression.starts_with(text)) continue;
    contraction = kind;
    expression.remove_prefix(text.size());
    break;
  }
  const std::optional<std::string> meaning = meaning_of(expression);
  for (size_t family = 0; meaning && family < kCount; ++family)
    if (kFamilies[family].meaning == *meaning && kFamilies[family].contraction == (contraction != Contraction::none))
      return make_scanner(family, contraction, std::make_index_sequence<kCount>());
  return nullptr;
}

}  // namespace capstan
