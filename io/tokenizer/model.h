#pragma once
// TokenModel: the last stage of a tokenizer, one word to token ids. Words come from the normalizer and the splitter;
// byte-level models see raw bytes (the file's table of 256 printable symbols is undone when the file is read, and made
// again when it is written), all others see UTF-8. Immutable; what encodes is a WordEncoder, one a thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

class WordEncoder {
 public:
  virtual ~WordEncoder() = default;
  /// Appends the tokens of one word of any length; time is at most n log n in its bytes.
  virtual void encode(std::string_view word, std::vector<uint32_t>& tokens) = 0;
  /// Likewise all words of a text, which end at `ends` (as a Splitter says): one call for many words is faster.
  virtual void encode_words(std::string_view text, std::span<const uint32_t> ends, std::vector<uint32_t>& tokens) {
    size_t begin = 0;
    for (const uint32_t end : ends) {
      encode(text.substr(begin, end - begin), tokens);
      begin = end;
    }
  }
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual std::unique_ptr<WordEncoder> encoder() const = 0;
  /// One more than the largest id.
  virtual uint32_t size() const = 0;
  /// What a token stands for, as the model sees words (raw bytes in a byte-level model). Empty for an unused id.
  virtual std::string_view piece(uint32_t token) const = 0;
  virtual std::optional<uint32_t> find(std::string_view piece) const = 0;
};

}  // namespace capstan
