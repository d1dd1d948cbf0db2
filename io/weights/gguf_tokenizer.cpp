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

/// What is peculiar to an expression that cuts text into words, and llama.cpp's name for it; the first that is found.
struct WordRuleName {
  std::string_view peculiar, also, name;
};
constexpr WordRuleName kWordRules[] = {
    {"\\p{Lu}", "\\p{N}{1,3}", "gpt-4o"},
    {"\\p{Lu}", "[\\r\\n/]*", "tekken"},
    {"[\\p{L}\\p{M}]+", "|\\p{N}|", "qwen35"},
    {"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "\\p{N}{1,3}", "llama-bpe"},
    {"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "|\\p{N}|", "qwen2"},
    {" ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+", "", "gpt-2"},
    {"[^(\\s|[.,!?", "", "bloom"},
    {"[0-9][0-9][0-9]", "", "[0-9][0-9][0-9]"},
};

std::string name_of_part(const PreTokenizerSpec& part) {
  if (const auto* bytes = std::get_if<ByteLevel>(&part))
    return bytes->add_prefix_space ? "a space before the text" : bytes->use_regex ? "gpt-2" : "";
  if (const auto* digits = std::get_if<Digits>(&part)) return digits->individual ? "each digit" : "digits";
  if (std::holds_alternative<Punctuation>(part)) return "punctuation";
  const auto* split = std::get_if<PatternSplit>(&part);
  if (!split || !split->pattern.regex) return "another rule";
  const auto has = [&](std::string_view text) { return split->pattern.text.find(text) != std::string::npos; };
  for (const WordRuleName& rule : kWordRules)
    if (has(rule.peculiar) && has(rule.also)) return std::string(rule.name);
  return "another rule";
}

/// llama.cpp's name for the way in which this tokenizer cuts text into words; nothing when it has none.
std::optional<std::string> word_rule(const TokenizerSpec& spec) {
  std::string parts;
  for (const PreTokenizerSpec& part : spec.pre_tokenizer)
    if (const std::string name = name_of_part(part); !name.empty()) parts += (parts.empty() ? "" : ", ") + name;
  for (const WordRuleName& rule : kWordRules)
    if (parts == rule.name && parts.front() != '[') return parts;
  if (parts == "each digit, gpt-2") return "starcoder";
  if (parts == "punctuation, gpt-2, digits, [0-9][0-9][0-9]") return "falcon";
  return std::nullopt;
}

bool has_byte_level(const TokenizerSpec& spec) {
  return std::any_of(spec.pre_tokenizer.begin(), spec.pre_tokenizer.end(),
                     [](const PreTokenizerSpec& part) { return std::holds_alternative<ByteLevel>(part); });
}

/// Whether the text gets a space in front, as SentencePiece does.
bool text_gets_space(const TokenizerSpec& spec) {
  if (spec.sentencepiece) return spec.sentencepiece->add_dummy_prefix;
  const auto prepends = [](const NormalizerSpec& part) { return std::holds_alternative<Prepend>(part); };
  const auto spaces = [](const PreTokenizerSpec& part) {
    const auto* metaspace = std::get_if<Metaspace>(&part);
    return metaspace && metaspace->scheme != Metaspace::Scheme::never;
  };
  return std::any_of(spec.normalizer.begin(), spec.normalizer.end(), prepends) ||
         std::any_of(spec.pre_tokenizer.begin(), spec.pre_tokenizer.end(), spaces);
}

/// Whether the text is changed otherwise than by SentencePiece's marks for spaces; llama.cpp changes nothing else.
bool changes_text(const TokenizerSpec& spec) {
  if (spec.sentencepiece && spec.sentencepiece->remove_extra_spaces) return true;
  return std::any_of(spec.normalizer.begin(), spec.normalizer.end(), [](const NormalizerSpec& part) {
    const auto* replace = std::get_if<Replace>(&part);
    return !std::holds_alternative<Prepend>(part) && !(replace && replace->pattern.text == " ");
  });
}

void say_no_tokenizer(std::string_view why, GgufModel& out) {
  out.metadata.emplace_back("tokenizer.ggml.model", std::string("no_vocab"));
  out.notices.push_back(fmt::format("no tokenizer goes into the file, so llama.cpp runs it by token ids: {}", why));
}

}  // namespace

void add_gguf_tokenizer(const Tokenizer* made, int64_t vocabulary, GgufModel& out) {
  if (made == nullptr) return say_no_tokenizer("the model has none", out);
  const Tokenizer& tokenizer = *made;
  const TokenizerSpec spec = exported_spec(tokenizer);
  const auto* parts = std::get_if<BpeParts>(&spec.model);
  const bool byte_level = has_byte_level(spec);
  if (parts == nullptr || !parts->continuing_prefix.empty() || !parts->end_suffix.empty() ||
      (!byte_level && !parts->byte_fallback))
    return say_no_tokenizer("its kinds are byte-level BPE and SentencePiece BPE with byte fallback", out);
  const std::optional<std::string> rule = byte_level ? word_rule(spec) : std::optional<std::string>("default");
  if (!rule)
    out.notices.push_back(
        "llama.cpp has no name for the rule by which the tokenizer cuts words and will use GPT-2's: its tokens will "
        "differ here and there");
  if (changes_text(spec))
    out.notices.push_back(
        "the tokenizer normalizes text (Unicode's forms, case, accents or spaces), llama.cpp does not: tokens of text "
        "that is "
        "not normal already will differ");
  TokenList list = list_tokens(spec, vocabulary, parts->byte_fallback);
  GgufMetadata& metadata = out.metadata;
  metadata.emplace_back("tokenizer.ggml.model", std::string(byte_level ? "gpt2" : "llama"));
  metadata.emplace_back("tokenizer.ggml.pre", rule.value_or("gpt-2"));
  if (!byte_level) {
    score_by_merges(spec, *parts, list);
    metadata.emplace_back("tokenizer.ggml.scores", list.scores);
    metadata.emplace_back("tokenizer.ggml.add_space_prefix", text_gets_space(spec));
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
  metadata.emplace_back("tokenizer.ggml.add_bos_token", !byte_level && begin.has_value());
}

}  // namespace capstan
