#include "io/tokenizer/byte_tokenizer.h"

#include <fmt/format.h>

#include "core/error.h"

namespace capstan {
namespace {

constexpr std::string_view kEndName = "<|endoftext|>";

class ByteEncoder final : public TokenEncoder {
 public:
  explicit ByteEncoder(bool special_tokens) : special_tokens_(special_tokens) {}
  void encode(std::string_view text, bool, std::vector<uint32_t>& tokens) override {
    while (special_tokens_) {
      const size_t at = text.find(kEndName);
      if (at == text.npos) break;
      add(text.substr(0, at), tokens);
      tokens.push_back(ByteTokenizer::kEndOfDocument);
      text.remove_prefix(at + kEndName.size());
    }
    add(text, tokens);
  }

 private:
  static void add(std::string_view text, std::vector<uint32_t>& tokens) {
    const size_t before = tokens.size();
    tokens.resize(before + text.size());
    for (size_t i = 0; i < text.size(); ++i) tokens[before + i] = static_cast<unsigned char>(text[i]);
  }
  bool special_tokens_;
};

/// Bytes are certain at once: who shows them to a person cares for broken characters.
class ByteDecoder final : public TokenDecoder {
 public:
  void push(uint32_t token, std::string& text) override {
    if (token > ByteTokenizer::kEndOfDocument)
      throw Error::make(ExitCode::bad_data, "cannot decode token {}: wanted an id below 257", token);
    if (token < ByteTokenizer::kEndOfDocument) text.push_back(static_cast<char>(token));
  }
  void finish(std::string&) override {}
};

}  // namespace

std::unique_ptr<TokenEncoder> ByteTokenizer::encoder(const EncodeOptions& options) const {
  return std::make_unique<ByteEncoder>(options.special_tokens);
}

std::unique_ptr<TokenDecoder> ByteTokenizer::decoder() const { return std::make_unique<ByteDecoder>(); }

std::string ByteTokenizer::token_name(uint32_t token) const {
  if (token == kEndOfDocument) return std::string(kEndName);
  return token < kEndOfDocument ? fmt::format("<0x{:02X}>", token) : "";
}

std::optional<uint32_t> ByteTokenizer::find_token(std::string_view name) const {
  for (uint32_t token = 0; token <= kEndOfDocument; ++token)
    if (token_name(token) == name) return token;
  return std::nullopt;
}

std::string ByteTokenizer::description() const {
  return "{\"type\": \"bytes\", \"version\": 1, \"vocabulary\": 257, \"end_of_document\": 256}\n";
}

}  // namespace capstan
