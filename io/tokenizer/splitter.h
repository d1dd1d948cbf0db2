#pragma once
// Splitter: cuts a text into words before the model sees it. Families differ in a regular expression only, and there
// are few: those are recognised by their text and cut by scanners of our own (known_splitter), ten times faster than a
// regular expression engine; every other expression goes through PCRE2 with limits (regex_splitter).

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

class Splitter {
 public:
  virtual ~Splitter() = default;
  /// Appends the end of each match and of each stretch between matches, in order, the last one text.size(). Invalid
  /// UTF-8 never fails: each bad byte counts as a character that is no letter, number or space. One thread at a time.
  virtual void split(std::string_view text, std::vector<uint32_t>& ends) = 0;
};

/// The expression that users mean by gpt2, cl100k, o200k, llama3, qwen2, qwen35 or tekken; empty for any other name.
std::string_view named_expression(std::string_view name);

/// The regular expressions of GPT-2, cl100k, o200k, LLaMA 3 and Qwen 2 (and the spellings of them found in
/// tokenizer.json files), read as Hugging Face reads them. Null for any other. Classes are those of Unicode 16.
std::unique_ptr<Splitter> known_splitter(std::string_view expression);

/// Any expression, untrusted: length, nesting, match steps and memory are limited; Error bad_data that names `where`
/// when it does not compile, or, while splitting, when a limit is met.
std::unique_ptr<Splitter> regex_splitter(std::string_view expression, const std::string& where);

}  // namespace capstan
