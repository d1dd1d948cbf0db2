#pragma once
// Components of a tokenizer (normalizers, pre-tokenizers, decoders, added tokens) from and to the JSON of
// tokenizer.json. Read with Hugging Face's defaults for members that old files lack; written in the order in which
// Hugging Face does.

#include <string>
#include <vector>

#include "io/tokenizer/spec.h"

namespace capstan {

/// Null is an empty list, Sequences are flattened. Error bad_data naming `where` and the component.
std::vector<NormalizerSpec> read_normalizers(const JsonValue& value, const std::string& where);
std::vector<PreTokenizerSpec> read_pre_tokenizers(const JsonValue& value, const std::string& where);
std::optional<std::vector<DecoderSpec>> read_decoders(const JsonValue& value, const std::string& where);
SentencePieceText read_sentencepiece_text(const JsonValue& value, const std::string& where);
std::vector<AddedToken> read_added_tokens(const JsonValue& value, const std::string& where);

std::string to_json(const std::vector<NormalizerSpec>& parts);
std::string to_json(const std::vector<PreTokenizerSpec>& parts);
std::string to_json(const std::optional<std::vector<DecoderSpec>>& parts);
std::string to_json(const AddedToken& token);
std::string to_json(const SentencePieceText& text);
/// Any small value, members in their order.
std::string to_json(const JsonValue& value);

/// A member of an object that may be missing: an Error names `where`, the member, and what was wanted.
bool flag_of(const JsonValue& object, std::string_view name, bool otherwise, const std::string& where);
std::string text_of(const JsonValue& object, std::string_view name, const std::string& otherwise,
                    const std::string& where);
uint64_t count_of(const JsonValue& object, std::string_view name, uint64_t otherwise, const std::string& where);
bool is_null(const JsonValue* value);

}  // namespace capstan
