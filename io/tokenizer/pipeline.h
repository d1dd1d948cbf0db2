#pragma once
// PipelineTokenizer: a tokenizer made of a TokenizerSpec. Text goes through added tokens, normalizer, pre-tokenizer and
// model, as in Hugging Face `tokenizers` with the same tokenizer.json, token for token. The common case, a byte-level
// BPE cut by a known expression, goes a short way in which no word costs an allocation.
// One rule is ours: text never makes a special token (nor the end of document) unless EncodeOptions asks for it, not
// even where the vocabulary has such a piece, so these pieces are hidden from the model.

#include <memory>

#include "io/tokenizer/spec.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

struct Pipeline;  // what a tokenizer and its encoders and decoders share, immutable

class PipelineTokenizer final : public Tokenizer {
 public:
  /// Error bad_data naming `where`: components that do not fit each other, an end of document that is no token, added
  /// tokens to which Hugging Face would give other ids than the file.
  PipelineTokenizer(TokenizerSpec spec, const std::string& where);

  std::string name() const override;
  uint32_t vocabulary() const override;
  uint32_t end_of_document() const override;
  std::unique_ptr<TokenEncoder> encoder(const EncodeOptions& options = {}) const override;
  std::unique_ptr<TokenDecoder> decoder() const override;
  bool may_cut(std::string_view text, size_t at) const override;
  uint32_t text_bytes(uint32_t token) const override;
  std::string token_name(uint32_t token) const override;
  std::optional<uint32_t> find_token(std::string_view name) const override;
  std::string description() const override;
  void add_special_tokens(std::vector<uint32_t>& tokens) const override;

  const TokenizerSpec& spec() const;

 private:
  std::shared_ptr<const Pipeline> pipeline_;
};

}  // namespace capstan
