#pragma once
// ByteTokenizer: every byte is a token; id 256 ends a document. Needs no training and loses nothing.

#include "io/tokenizer/tokenizer.h"

namespace capstan {

class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr uint32_t kEndOfDocument = 256;

  std::string name() const override { return "bytes"; }
  uint32_t vocabulary() const override { return 257; }
  uint32_t end_of_document() const override { return kEndOfDocument; }
  std::unique_ptr<TokenEncoder> encoder(const EncodeOptions& options = {}) const override;
  std::unique_ptr<TokenDecoder> decoder() const override;
  bool may_cut(std::string_view, size_t) const override { return true; }
  uint32_t text_bytes(uint32_t token) const override { return token < kEndOfDocument ? 1 : 0; }
  std::string token_name(uint32_t token) const override;
  std::optional<uint32_t> find_token(std::string_view name) const override;
  std::string description() const override;
};

}  // namespace capstan
