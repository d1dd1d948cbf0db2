#include "io/tokenizer/tokenizer.h"

#include "io/checkpoint/digest.h"
#include "io/file_system.h"

namespace capstan {

bool Tokenizer::may_cut(std::string_view text, size_t at) const { return at == 0 || at >= text.size(); }

std::vector<uint32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<uint32_t> tokens;
  encoder(options)->encode(text, true, tokens);
  return tokens;
}

std::string Tokenizer::decode(std::span<const uint32_t> tokens) const {
  std::string text;
  const std::unique_ptr<TokenDecoder> decoder = this->decoder();
  for (const uint32_t token : tokens) decoder->push(token, text);
  decoder->finish(text);
  return text;
}

void Tokenizer::add_special_tokens(std::vector<uint32_t>&) const {}

std::string Tokenizer::hash() const { return digest128_of(description()).hex(); }

void Tokenizer::save(const std::filesystem::path& directory) const {
  write_file_atomically(directory / "tokenizer.json", description());
}

}  // namespace capstan
