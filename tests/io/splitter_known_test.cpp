// label: cpu
// The scanners of known_splitter() cut as the regular expressions that they stand for: fixed cases, random mixes of
// scripts and signs against PCRE2, and texts made to be slow.

#include <gtest/gtest.h>

#include <ctime>
#include <random>

#include "io/tokenizer/pre_tokenizer.h"
#include "io/tokenizer/splitter.h"

namespace capstan {
namespace {

struct Expression {
  const char* name;
  const char* text;
  const char* plain;  ///< the same without possessive forms, for PCRE2
};

#define OLD_WORDS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define CAPITALS "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define SMALL "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SIGN "[^\\r\\n\\p{L}\\p{N}]?"
#define ANY_CASE "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define ASCII_CASE "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SIGNS " ?[^\\s\\p{L}\\p{N}]+"
#define BLANKS "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const Expression kExpressions[] = {
    {"gpt2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SIGNS "|\\s+(?!\\S)|\\s+", nullptr},
    {"gpt2_tiktoken", "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s",
     "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+|" SIGNS "|\\s+\\z|\\s+(?!\\S)|\\s"},
    {"cl100k", ANY_CASE "|" OLD_WORDS "|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|" BLANKS, nullptr},
    {"cl100k_old_tiktoken",
     "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|"
     "\\s+(?!\\S)|\\s+",
     "'(?i:[sdmt]|ll|ve|re)|" OLD_WORDS "|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
    {"cl100k_tiktoken",
     "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|"
     "\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
     "'(?i:[sdmt]|ll|ve|re)|" OLD_WORDS "|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|\\s+\\z|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"},
    {"qwen2", ANY_CASE "|" OLD_WORDS "|\\p{N}|" SIGNS "[\\r\\n]*|" BLANKS, nullptr},
    {"qwen2_llama_cpp", ASCII_CASE "|" OLD_WORDS "|\\p{N}|" SIGNS "[\\r\\n]*|" BLANKS, nullptr},
    {"qwen35", ANY_CASE "|" SIGN "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" BLANKS, nullptr},
    {"o200k",
     SIGN CAPITALS "*" SMALL "+" ANY_CASE "?|" SIGN CAPITALS "+" SMALL "*" ANY_CASE "?|\\p{N}{1,3}|" SIGNS
                   "[\\r\\n/]*|" BLANKS,
     nullptr},
    {"tekken", SIGN CAPITALS "*" SMALL "+|" SIGN CAPITALS "+" SMALL "*|\\p{N}|" SIGNS "[\\r\\n/]*|" BLANKS, nullptr},
};

using Words = std::vector<std::string>;

Words split(Splitter& splitter, std::string_view text) {
  std::vector<uint32_t> ends;
  splitter.split(text, ends);
  Words words;
  size_t begin = 0;
  for (const uint32_t end : ends) {
    EXPECT_GT(end, begin);
    words.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  EXPECT_EQ(begin, text.size());
  return words;
}

Words known(const char* name, std::string_view text) {
  for (const Expression& expression : kExpressions)
    if (std::string_view(expression.name) == name) return split(*known_splitter(expression.text), text);
  ADD_FAILURE() << name;
  return {};
}

TEST(KnownSplitter, KnowsItsExpressionsAndNoOthers) {
  for (const Expression& expression : kExpressions) {
    EXPECT_NE(known_splitter(expression.text), nullptr) << expression.name;
    EXPECT_EQ(known_splitter(std::string(expression.text) + "x"), nullptr) << expression.name;
    EXPECT_EQ(known_splitter(std::string("x|") + expression.text), nullptr) << expression.name;
    EXPECT_EQ(known_splitter(std::string(expression.text).substr(1)), nullptr) << expression.name;
  }
  EXPECT_EQ(known_splitter(""), nullptr);
  EXPECT_EQ(known_splitter("|"), nullptr);
  EXPECT_EQ(known_splitter(")))((("), nullptr);
  // In Ruby's dialect {1,3}+ repeats the repetition, so tiktoken's spelling is another expression there.
  EXPECT_EQ(known_splitter("'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| "
                           "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"),
            nullptr);
}

/// A tokenizer whose expression goes unnoticed is right all the same, only many times slower.
TEST(KnownSplitter, TokenizersTakeTheShortWay) {
  for (const char* name : {"gpt2", "cl100k", "o200k", "llama3", "qwen2", "qwen35", "tekken"}) {
    PatternSplit split;
    split.pattern = {std::string(named_expression(name)), true};
    const std::vector<PreTokenizerSpec> parts{split, ByteLevel{false, true, false}};
    EXPECT_EQ(only_known_expression(parts, true), split.pattern.text) << name;
    EXPECT_EQ(line_cut_of(parts), LineCut::between_words) << name;
  }
  const std::vector<PreTokenizerSpec> gpt2{ByteLevel{false, true, true}};
  EXPECT_TRUE(only_known_expression(gpt2, true).has_value());
  EXPECT_EQ(line_cut_of(gpt2), LineCut::between_words);
}

TEST(KnownSplitter, CutsFixedCases) {
  EXPECT_EQ(known("gpt2", "I'll go,  don't\n\n  'S 12345!?"),
            (Words{"I", "'ll", " go", ",", " ", " don", "'t", "\n\n ", " '", "S", " 12345", "!?"}));
  EXPECT_EQ(known("cl100k", "I'LL (go)\r\n\n  x 12345.\n\n\tend  "),
            (Words{"I", "'LL", " (", "go", ")\r\n\n", " ", " x", " ", "123", "45", ".\n\n", "\tend", "  "}));
  EXPECT_EQ(known("cl100k", "a \n \n  "), (Words{"a", " \n \n", "  "}));
  EXPECT_EQ(known("cl100k_tiktoken", "a \n \n  "), (Words{"a", " \n \n  "}));
  EXPECT_EQ(known("cl100k", "'\xc5\xbf'\xe2\x84\xaa"), (Words{"'\xc5\xbf", "'\xe2\x84\xaa"}));
  EXPECT_EQ(known("qwen2_llama_cpp", "'\xc5\xbfx"), (Words{"'\xc5\xbfx"}));
  EXPECT_EQ(known("qwen2", "12 ab"), (Words{"1", "2", " ab"}));
  EXPECT_EQ(known("o200k", "HTTPServer camelCase's /usr//\n"),
            (Words{"HTTPServer", " camel", "Case's", " /", "usr", "//\n"}));
}

TEST(KnownSplitter, TakesEachBadByteForASign) {
  EXPECT_EQ(known("gpt2",
                  "ab\xff\xfe"
                  "cd"),
            (Words{"ab", "\xff\xfe", "cd"}));
  EXPECT_EQ(known("gpt2", "\xed\xa0\x80 \xc0\x80x\xf0\x9f"), (Words{"\xed\xa0\x80", " \xc0\x80", "x", "\xf0\x9f"}));
  EXPECT_EQ(known("cl100k",
                  "\xe2\x82"
                  "a!"),
            (Words{"\xe2\x82", "a", "!"}));
}

/// Characters of 20 scripts and what tokenizers stumble over; all of them are in Unicode 14, which PCRE2 knows.
std::string random_text(std::mt19937& random) {
  static const std::u32string pools[] = {U"abcdefghijklmnopqrstuvwxyz",
                                         U"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                                         U"0123456789",
                                         U" ",
                                         U" \t\v\f\x1c\x1f",
                                         U"\n\r",
                                         U"\u0085\u00a0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000",
                                         U"'",
                                         U"'sStTdDmM",
                                         U"'rReEvVlL",
                                         U"'\u017f\u212a\u0130\u0131\ufb05\ufb06\u1e9e\u00df",
                                         U".,;:!?-_()[]{}<>/\\|@#$%^&*+=~`\"",
                                         U"/",
                                         U"\u2019\u2018\u201c",
                                         U"\u00e9\u00e8\u00c9\u00d8\u00f8\u0142\u0141",
                                         U"\u03b1\u03b2\u0391\u0392\u03c2\u0390",
                                         U"\u0430\u0431\u0410\u0411\u0451",
                                         U"\u05d0\u05d1\u05b0\u05bc",
                                         U"\u0627\u0628\u064b\u0651\u0660\u0661",
                                         U"\u0915\u093f\u094d\u0966",
                                         U"\u0985\u09be\u09e6\u09f4",
                                         U"\u0ba4\u0bbf\u0be7",
                                         U"\u0e01\u0e34\u0e50",
                                         U"\u0f40\u0f71\u0f20\u0f33",
                                         U"\u1000\u1031\u1040",
                                         U"\u10d0\u10a0\u1c90",
                                         U"\u1100\uac00\ud7a3",
                                         U"\u12a0\u1369\u1372",
                                         U"\u13a0\uab70\u13f8",
                                         U"\u1780\u17b6\u17e0",
                                         U"\u3042\u30a2\u3005\u30fc\u3099",
                                         U"\u4e00\u4e8c\u9fa5\u3007\u3021",
                                         U"\U00020000\U0002a6d6",
                                         U"\u0531\u0561\u0587",
                                         U"\u01c5\u01c4\u01c6\u01c8",
                                         U"\u02b0\u02b9\u1d2c\u2071",
                                         U"\u0300\u0301\u20dd\ufe0f\U000e0101",
                                         U"\u00b2\u00bd\u2160\u216b\u2460\u0bf0",
                                         U"\U0001f600\U0001f469\u200d\U0001f1e6\U0001f3fd\u2764\ufe0f",
                                         U"\u200b\u200c\u200d\u2060\ufeff\u00ad",
                                         U"\x01\x7f\u0080\u009f",
                                         U"\u20ac\u00a3\u221e\u2211\u2190",
                                         U"\U00010400\U00010428\U0001d400\U0001d7ce",
                                         U"\ue000\U000f0000\U0010ffff\uffff",
                                         U"\ufffd"};
  const auto pick = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  std::string text;
  for (size_t part = 1 + pick(12); part > 0; --part) {
    const std::u32string& pool = pools[pick(std::size(pools))];
    for (size_t i = 1 + pick(5); i > 0; --i) {
      const char32_t c = pool[pick(pool.size())];
      if (c < 0x80) {
        text += static_cast<char>(c);
      } else {
        if (c >= 0x10000) text += static_cast<char>(0xf0 | c >> 18);
        if (c >= 0x800) text += static_cast<char>(c >= 0x10000 ? 0x80 | (c >> 12 & 0x3f) : 0xe0 | c >> 12);
        text += static_cast<char>(c >= 0x800 ? 0x80 | (c >> 6 & 0x3f) : 0xc0 | c >> 6);
        text += static_cast<char>(0x80 | (c & 0x3f));
      }
    }
  }
  if (pick(8) != 0) return text;
  for (size_t i = 1 + pick(4); i > 0 && !text.empty(); --i) {  // broken, but never into a character of a newer Unicode
    static const char* bad[] = {
        "\xff", "\xc0", "\xf5", "\xed\xa0\x80", "\xed\xbf\xbf", "\xe0\x80\x80", "\xf4\x90\x80\x80"};
    if (pick(2))
      text.erase(pick(text.size()), 1);
    else
      text.insert(pick(2) ? 0 : text.size(), bad[pick(std::size(bad))]);
  }
  return text;
}

std::string shown(const Words& words) {
  std::string text;
  for (const std::string& word : words) text += "[" + testing::PrintToString(word) + "]";
  return text;
}

TEST(KnownSplitter, CutsLikePcre2) {
  std::mt19937 random(20240607);
  for (const Expression& expression : kExpressions) {
    const auto ours = known_splitter(expression.text);
    const auto theirs = regex_splitter(expression.plain ? expression.plain : expression.text, expression.name);
    for (int i = 0; i < 6000; ++i) {
      const std::string text = random_text(random);
      const Words wanted = split(*theirs, text), got = split(*ours, text);
      ASSERT_EQ(got, wanted) << expression.name << "\n" << shown(got) << "\n" << shown(wanted);
    }
  }
}

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Ten times the text may take ten times as long, with much room for noise; a quadratic scanner needs a hundred.
TEST(KnownSplitter, BombsTakeLinearTime) {
  constexpr size_t kSmall = 100'000;
  const auto repeated = [](std::string_view part, size_t size) {
    std::string text;
    while (text.size() < size) text += part;
    return text;
  };
  const auto seconds = [](Splitter& splitter, const std::string& text) {
    std::vector<uint32_t> ends;
    const double begin = processor_seconds();
    splitter.split(text, ends);
    return processor_seconds() - begin;
  };
  for (const Expression& expression : kExpressions) {
    const auto splitter = known_splitter(expression.text);
    for (const char* part : {"a", "A", " ", "\n", " \n", "\xcc\x81",
                             "\xcc\x81"
                             "A",
                             "'", "1", "\xff",
                             "A\xcc\x81"
                             "AA",
                             "\n ", "\xe4\xb8\x80"}) {
      const std::string small = repeated(part, kSmall), large = repeated(part, 10 * kSmall);
      const double one = seconds(*splitter, small), ten = seconds(*splitter, large);
      EXPECT_LT(ten, 40 * one + 0.01) << expression.name << " on " << testing::PrintToString(part);
    }
  }
}

}  // namespace
}  // namespace capstan
