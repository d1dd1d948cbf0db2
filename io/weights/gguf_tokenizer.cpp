// A tokenizer in GGUF's metadata.

#include <algorithm>

#include "io/weights/gguf_output.h"
#include "io/weights/tokenizer_output.h"

namespace capstan {
namespace {

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUser = 4, kUnused = 5, kByte = 6 };

struct TokenList {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
};

bool is_byte_piece(const std::string& piece) {
  return piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with(">");
}

/// One entry for each row of the embedding: pieces, added tokens, and names for rows without a token.
TokenList list_tokens(const TokenizerSpec& spec, int64_t vocabulary, bool byte_fallback) {
  TokenList list;
  const auto size = static_cast<size_t>(vocabulary);
  for (size_t id = 0; id < size; ++id) {
    const bool known = id < spec.pieces.size() && !spec.pieces[id].empty();
    list.tokens.push_back(known ? spec.pieces[id] : "[PAD" + std::to_string(id) + "]");
    list.types.push_back(!known ? kUnused : byte_fallback && is_byte_piece(spec.pieces[id]) ? kByte : kNormal);
    list.scores.push_back(known ? 0.0f : -1000.0f);
  }
  for (const AddedToken& token : spec.added)
    if (token.id < size) {
      list.tokens[token.id] = token.content;
      list.types[token.id] = token.special ? kControl : kUser;
    }
  return list;
}

/// llama.cpp joins the pair whose joined piece scores best: the earlier the merge, the better.
void score_by_merges(const TokenizerSpec& spec, const BpeParts& parts, TokenList& list) {
  for (float& score : list.scores) score = std::min(score, -1e6f);
  for (size_t rank = parts.merges.size(); rank-- > 0;)
    if (parts.merges[rank].result < list.scores.size())
      list.scores[parts.merges[rank].result] = -static_cast<float>(rank);
  if (!parts.unknown) return;
  for (size_t id = 0; id < std::min(spec.pieces.size(), list.types.size()); ++id)
    if (spec.pieces[id] == *parts.unknown) list.types[id] = kUnknown;
}

/// llama.cpp's names for the expressions that cut text into words, told by what is peculiar to each.
std::string word_rule(const TokenizerSpec& spec) {
  for (const PreTokenizerSpec& part : spec.pre_tokenizer) {
    const auto* split = std::get_if<PatternSplit>(&part);
    if (!split) continue;
    const std::string& text = split->pattern.text;
    if (text.find("\\p{N}{1,3}") != text.npos) return "llama-bpe";
    if (text.find("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+") != text.npos) return "qwen2";
    if (text.find("[^(\\s|[.,!?") != text.npos) return "bloom";
  }
  return "gpt-2";
}

bool has_byte_level(const TokenizerSpec& spec) {
  return std::any_of(spec.pre_tokenizer.begin(), spec.pre_tokenizer.end(),
                     [](const PreTokenizerSpec& part) { return std::holds_alternative<ByteLevel>(part); });
}

}  // namespace

void add_gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocabulary, GgufModel& out) {
  const TokenizerSpec spec = exported_spec(tokenizer);
  const auto* parts = std::get_if<BpeParts>(&spec.model);
  if (parts == nullptr) {
    out.notices.push_back(
        "no tokenizer goes into the file: llama.cpp's kinds are byte-level BPE and SentencePiece BPE");
    return;
  }
  const bool byte_level = has_byte_level(spec);
  TokenList list = list_tokens(spec, vocabulary, parts->byte_fallback);
  GgufMetadata& metadata = out.metadata;
  metadata.emplace_back("tokenizer.ggml.model", std::string(byte_level ? "gpt2" : "llama"));
  metadata.emplace_back("tokenizer.ggml.pre", byte_level ? word_rule(spec) : std::string("default"));
  if (!byte_level) {
    score_by_merges(spec, *parts, list);
    metadata.emplace_back("tokenizer.ggml.scores", list.scores);
  } else {
    std::vector<std::string> merges;
    for (const BpeSpec::Merge& merge : parts->merges)
      merges.push_back(spec.pieces[merge.left] + " " + spec.pieces[merge.right]);
    metadata.emplace_back("tokenizer.ggml.merges", std::move(merges));
  }
  metadata.emplace_back("tokenizer.ggml.tokens", list.tokens);
  metadata.emplace_back("tokenizer.ggml.token_type", list.types);
  const auto id_of = [&](std::string_view name) { return tokenizer.find_token(name); };
  metadata.emplace_back("tokenizer.ggml.eos_token_id", tokenizer.end_of_document());
  const auto begin = byte_level ? std::optional<uint32_t>(tokenizer.end_of_document()) : id_of("<s>");
  if (begin) metadata.emplace_back("tokenizer.ggml.bos_token_id", *begin);
  if (const auto unknown = parts->unknown ? id_of(*parts->unknown) : std::nullopt)
    metadata.emplace_back("tokenizer.ggml.unknown_token_id", *unknown);
  metadata.emplace_back("tokenizer.ggml.add_bos_token", !byte_level);
}

}  // namespace capstan
