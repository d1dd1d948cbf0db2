#include "io/tokenizer/component_json.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "io/tokenizer/base64.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr size_t kMostParts = 256;  // of one sequence

template <typename... Rest>
Error bad(const std::string& where, fmt::format_string<Rest...> format, Rest&&... rest) {
  return Error::make(ExitCode::bad_data, "{}: {}", where, fmt::format(format, std::forward<Rest>(rest)...));
}

struct BehaviorName {
  SplitBehavior behavior;
  const char* name;
};
constexpr std::array<BehaviorName, 5> kBehaviors = {{{SplitBehavior::removed, "Removed"},
                                                     {SplitBehavior::isolated, "Isolated"},
                                                     {SplitBehavior::merged_with_previous, "MergedWithPrevious"},
                                                     {SplitBehavior::merged_with_next, "MergedWithNext"},
                                                     {SplitBehavior::contiguous, "Contiguous"}}};

SplitBehavior read_behavior(const JsonValue& part, const std::string& where) {
  const std::string name = text_of(part, "behavior", "Isolated", where);
  for (const BehaviorName& known : kBehaviors)
    if (name == known.name) return known.behavior;
  throw bad(where,
            "unknown behavior \"{}\"; wanted Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
            name);
}

std::string json_of(SplitBehavior behavior) {
  for (const BehaviorName& known : kBehaviors)
    if (behavior == known.behavior) return json_quote(known.name);
  return "null";
}

TextPattern read_pattern(const JsonValue& part, const std::string& where) {
  const JsonValue* pattern = part.find("pattern");
  if (pattern == nullptr) throw bad(where, "wanted a member \"pattern\", there is none");
  if (pattern->find("Regex") != nullptr) return {text_of(*pattern, "Regex", "", where), true};
  if (pattern->find("String") != nullptr) return {text_of(*pattern, "String", "", where), false};
  throw bad(where, "wanted a pattern {{\"Regex\": ...}} or {{\"String\": ...}}, got another");
}

std::string json_of(const TextPattern& pattern) {
  return fmt::format("{{\"{}\": {}}}", pattern.regex ? "Regex" : "String", json_quote(pattern.text));
}

std::string one_character(const JsonValue& part, std::string_view name, const std::string& otherwise,
                          const std::string& where) {
  std::string text = text_of(part, name, otherwise, where);
  if (text.empty() || utf8_at(text, 0).size != text.size())
    throw bad(where, "\"{}\": wanted one character, got \"{}\"", name, text);
  return text;
}

/// The components of a list that may be null, one, or a Sequence (of Sequences) under `list_name`.
template <typename Read>
void each_part(const JsonValue& value, const char* list_name, const std::string& where, Read&& read) {
  if (is_null(&value)) return;
  const JsonValue* type = value.find("type");
  if (type == nullptr) throw bad(where, "wanted an object with a \"type\", got another");
  if (type->text(where) != "Sequence") return read(value, type->text(where));
  const JsonValue* list = value.find(list_name);
  if (list == nullptr) throw bad(where, "a Sequence without its list \"{}\"", list_name);
  for (const JsonValue& part : list->array(where)) each_part(part, list_name, where, read);
}

template <typename T>
void push(std::vector<T>& parts, T part, const std::string& where) {
  if (parts.size() >= kMostParts) throw bad(where, "wanted a sequence of at most {} parts, got more", kMostParts);
  parts.push_back(std::move(part));
}

Metaspace read_metaspace(const JsonValue& part, const std::string& where) {
  Metaspace space;
  space.replacement = one_character(part, "replacement", space.replacement, where);
  const bool prefix = flag_of(part, "add_prefix_space", true, where);
  const std::string scheme = text_of(part, "prepend_scheme", prefix ? "always" : "never", where);
  if (scheme == "first")
    space.scheme = Metaspace::Scheme::first;
  else if (scheme == "never")
    space.scheme = Metaspace::Scheme::never;
  else if (scheme != "always")
    throw bad(where, "Metaspace: wanted prepend_scheme always, first or never, got \"{}\"", scheme);
  space.split = flag_of(part, "split", true, where);
  return space;
}

ByteLevel read_byte_level(const JsonValue& part, const std::string& where) {
  return {flag_of(part, "add_prefix_space", true, where), flag_of(part, "trim_offsets", true, where),
          flag_of(part, "use_regex", true, where)};
}

NormalizerSpec read_normalizer(const JsonValue& part, const std::string& type, const std::string& where) {
  using Form = UnicodeForm::Form;
  if (type == "NFC") return UnicodeForm{Form::nfc};
  if (type == "NFD") return UnicodeForm{Form::nfd};
  if (type == "NFKC") return UnicodeForm{Form::nfkc};
  if (type == "NFKD") return UnicodeForm{Form::nfkd};
  if (type == "Lowercase") return Lowercase{};
  if (type == "Nmt") return Nmt{};
  if (type == "StripAccents") return StripAccents{};
  if (type == "ByteLevel") return ByteLevelNormalizer{};
  if (type == "Strip")
    return StripSpace{flag_of(part, "strip_left", true, where), flag_of(part, "strip_right", true, where)};
  if (type == "Replace") return Replace{read_pattern(part, where), text_of(part, "content", "", where)};
  if (type == "Prepend") return Prepend{text_of(part, "prepend", "", where)};
  if (type == "BertNormalizer") {
    BertNormalizer bert{flag_of(part, "clean_text", true, where), flag_of(part, "handle_chinese_chars", true, where),
                        std::nullopt, flag_of(part, "lowercase", true, where)};
    if (!is_null(part.find("strip_accents"))) bert.strip_accents = flag_of(part, "strip_accents", true, where);
    return bert;
  }
  if (type == "Precompiled") {
    std::optional<std::string> map = from_base64(text_of(part, "precompiled_charsmap", "", where));
    if (!map) throw bad(where, "Precompiled: precompiled_charsmap is not base64");
    return Precompiled{std::move(*map)};
  }
  throw bad(where,
            "unknown type \"{}\"; known: NFC NFD NFKC NFKD Lowercase Nmt StripAccents ByteLevel Strip Replace Prepend "
            "BertNormalizer Precompiled Sequence",
            type);
}

PreTokenizerSpec read_pre_tokenizer(const JsonValue& part, const std::string& type, const std::string& where) {
  if (type == "ByteLevel") return read_byte_level(part, where);
  if (type == "Split")
    return PatternSplit{read_pattern(part, where), read_behavior(part, where), flag_of(part, "invert", false, where)};
  if (type == "BertPreTokenizer") return BertSplit{};
  if (type == "Whitespace") return WordsAndSigns{};
  if (type == "WhitespaceSplit") return WhitespaceSplit{};
  if (type == "UnicodeScripts") return UnicodeScripts{};
  if (type == "Metaspace") return read_metaspace(part, where);
  if (type == "Digits") return Digits{flag_of(part, "individual_digits", false, where)};
  if (type == "Punctuation") return Punctuation{read_behavior(part, where)};
  if (type == "CharDelimiterSplit" || type == "Delimiter")
    return DelimiterSplit{one_character(part, "delimiter", "", where)};
  if (type == "FixedLength") {
    const FixedLength fixed{count_of(part, "length", 5, where)};
    if (fixed.length == 0) throw bad(where, "FixedLength: wanted a length of at least 1, got 0");
    return fixed;
  }
  throw bad(where,
            "unknown type \"{}\"; known: ByteLevel Split BertPreTokenizer Whitespace WhitespaceSplit UnicodeScripts "
            "Metaspace Digits Punctuation CharDelimiterSplit FixedLength Sequence",
            type);
}

DecoderSpec read_decoder(const JsonValue& part, const std::string& type, const std::string& where) {
  if (type == "ByteLevel") return read_byte_level(part, where);
  if (type == "Metaspace") return read_metaspace(part, where);
  if (type == "WordPiece")
    return WordPieceDecoder{text_of(part, "prefix", "##", where), flag_of(part, "cleanup", true, where)};
  if (type == "BPEDecoder") return BpeDecoder{text_of(part, "suffix", "</w>", where)};
  if (type == "ByteFallback") return ByteFallback{};
  if (type == "Fuse") return Fuse{};
  if (type == "Strip")
    return StripDecoder{one_character(part, "content", " ", where), count_of(part, "start", 0, where),
                        count_of(part, "stop", 0, where)};
  if (type == "Replace") return Replace{read_pattern(part, where), text_of(part, "content", "", where)};
  if (type == "CTC")
    return CtcDecoder{text_of(part, "pad_token", "<pad>", where), text_of(part, "word_delimiter_token", "|", where),
                      flag_of(part, "cleanup", true, where)};
  throw bad(where,
            "unknown type \"{}\"; known: ByteLevel Metaspace WordPiece BPEDecoder ByteFallback Fuse Strip Replace CTC "
            "Sequence",
            type);
}

const char* yes(bool flag) { return flag ? "true" : "false"; }

/// Writes each kind of component; which of them may stand where is the variants' business.
struct Writer {
  std::string operator()(const UnicodeForm& part) const {
    constexpr const char* names[] = {"NFC", "NFD", "NFKC", "NFKD"};
    return fmt::format("{{\"type\": \"{}\"}}", names[static_cast<int>(part.form)]);
  }
  std::string operator()(const Lowercase&) const { return "{\"type\": \"Lowercase\"}"; }
  std::string operator()(const Nmt&) const { return "{\"type\": \"Nmt\"}"; }
  std::string operator()(const StripAccents&) const { return "{\"type\": \"StripAccents\"}"; }
  std::string operator()(const ByteLevelNormalizer&) const { return "{\"type\": \"ByteLevel\"}"; }
  std::string operator()(const StripSpace& part) const {
    return fmt::format("{{\"type\": \"Strip\", \"strip_left\": {}, \"strip_right\": {}}}", yes(part.left),
                       yes(part.right));
  }
  std::string operator()(const Replace& part) const {
    return fmt::format("{{\"type\": \"Replace\", \"pattern\": {}, \"content\": {}}}", json_of(part.pattern),
                       json_quote(part.content));
  }
  std::string operator()(const Prepend& part) const {
    return fmt::format("{{\"type\": \"Prepend\", \"prepend\": {}}}", json_quote(part.text));
  }
  std::string operator()(const BertNormalizer& part) const {
    return fmt::format(
        "{{\"type\": \"BertNormalizer\", \"clean_text\": {}, \"handle_chinese_chars\": {}, \"strip_accents\": {}, "
        "\"lowercase\": {}}}",
        yes(part.clean_text), yes(part.handle_chinese_chars), part.strip_accents ? yes(*part.strip_accents) : "null",
        yes(part.lowercase));
  }
  std::string operator()(const Precompiled& part) const {
    return fmt::format("{{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"{}\"}}", to_base64(part.charsmap));
  }
  std::string operator()(const ByteLevel& part) const {
    return fmt::format("{{\"type\": \"ByteLevel\", \"add_prefix_space\": {}, \"trim_offsets\": {}, \"use_regex\": {}}}",
                       yes(part.add_prefix_space), yes(part.trim_offsets), yes(part.use_regex));
  }
  std::string operator()(const PatternSplit& part) const {
    return fmt::format("{{\"type\": \"Split\", \"pattern\": {}, \"behavior\": {}, \"invert\": {}}}",
                       json_of(part.pattern), json_of(part.behavior), yes(part.invert));
  }
  std::string operator()(const BertSplit&) const { return "{\"type\": \"BertPreTokenizer\"}"; }
  std::string operator()(const WordsAndSigns&) const { return "{\"type\": \"Whitespace\"}"; }
  std::string operator()(const WhitespaceSplit&) const { return "{\"type\": \"WhitespaceSplit\"}"; }
  std::string operator()(const UnicodeScripts&) const { return "{\"type\": \"UnicodeScripts\"}"; }
  std::string operator()(const Metaspace& part) const {
    constexpr const char* schemes[] = {"always", "first", "never"};
    return fmt::format("{{\"type\": \"Metaspace\", \"replacement\": {}, \"prepend_scheme\": \"{}\", \"split\": {}}}",
                       json_quote(part.replacement), schemes[static_cast<int>(part.scheme)], yes(part.split));
  }
  std::string operator()(const Digits& part) const {
    return fmt::format("{{\"type\": \"Digits\", \"individual_digits\": {}}}", yes(part.individual));
  }
  std::string operator()(const Punctuation& part) const {
    return fmt::format("{{\"type\": \"Punctuation\", \"behavior\": {}}}", json_of(part.behavior));
  }
  std::string operator()(const DelimiterSplit& part) const {
    return fmt::format("{{\"type\": \"CharDelimiterSplit\", \"delimiter\": {}}}", json_quote(part.delimiter));
  }
  std::string operator()(const FixedLength& part) const {
    return fmt::format("{{\"type\": \"FixedLength\", \"length\": {}}}", part.length);
  }
  std::string operator()(const WordPieceDecoder& part) const {
    return fmt::format("{{\"type\": \"WordPiece\", \"prefix\": {}, \"cleanup\": {}}}", json_quote(part.prefix),
                       yes(part.cleanup));
  }
  std::string operator()(const BpeDecoder& part) const {
    return fmt::format("{{\"type\": \"BPEDecoder\", \"suffix\": {}}}", json_quote(part.suffix));
  }
  std::string operator()(const ByteFallback&) const { return "{\"type\": \"ByteFallback\"}"; }
  std::string operator()(const Fuse&) const { return "{\"type\": \"Fuse\"}"; }
  std::string operator()(const StripDecoder& part) const {
    return fmt::format("{{\"type\": \"Strip\", \"content\": {}, \"start\": {}, \"stop\": {}}}",
                       json_quote(part.content), part.start, part.stop);
  }
  std::string operator()(const CtcDecoder& part) const {
    return fmt::format("{{\"type\": \"CTC\", \"pad_token\": {}, \"word_delimiter_token\": {}, \"cleanup\": {}}}",
                       json_quote(part.pad_token), json_quote(part.word_delimiter_token), yes(part.cleanup));
  }
};

template <typename T>
std::string sequence(const std::vector<T>& parts, const char* list_name) {
  std::string text = fmt::format("{{\"type\": \"Sequence\", \"{}\": [", list_name);
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : ", ") + std::visit(Writer(), parts[i]);
  return text + "]}";
}

template <typename T>
std::string list_json(const std::vector<T>& parts, const char* list_name) {
  if (parts.empty()) return "null";
  return parts.size() == 1 ? std::visit(Writer(), parts[0]) : sequence(parts, list_name);
}

}  // namespace

bool is_null(const JsonValue* value) {
  return value == nullptr || std::holds_alternative<std::nullptr_t>(value->content());
}

bool flag_of(const JsonValue& object, std::string_view name, bool otherwise, const std::string& where) {
  const JsonValue* value = object.find(name);
  if (is_null(value)) return otherwise;
  if (const bool* flag = std::get_if<bool>(&value->content())) return *flag;
  throw bad(where, "\"{}\": wanted true or false, got another value", name);
}

std::string text_of(const JsonValue& object, std::string_view name, const std::string& otherwise,
                    const std::string& where) {
  const JsonValue* value = object.find(name);
  if (is_null(value)) return otherwise;
  if (const std::string* text = std::get_if<std::string>(&value->content())) return *text;
  throw bad(where, "\"{}\": wanted a string, got another value", name);
}

uint64_t count_of(const JsonValue& object, std::string_view name, uint64_t otherwise, const std::string& where) {
  const JsonValue* value = object.find(name);
  if (is_null(value)) return otherwise;
  if (const uint64_t* count = std::get_if<uint64_t>(&value->content())) return *count;
  throw bad(where, "\"{}\": wanted a whole number, got another value", name);
}

std::vector<NormalizerSpec> read_normalizers(const JsonValue& value, const std::string& where) {
  std::vector<NormalizerSpec> parts;
  each_part(value, "normalizers", where, [&](const JsonValue& part, const std::string& type) {
    push(parts, read_normalizer(part, type, where), where);
  });
  return parts;
}

std::vector<PreTokenizerSpec> read_pre_tokenizers(const JsonValue& value, const std::string& where) {
  std::vector<PreTokenizerSpec> parts;
  each_part(value, "pretokenizers", where, [&](const JsonValue& part, const std::string& type) {
    push(parts, read_pre_tokenizer(part, type, where), where);
  });
  return parts;
}

std::optional<std::vector<DecoderSpec>> read_decoders(const JsonValue& value, const std::string& where) {
  if (is_null(&value)) return std::nullopt;
  std::vector<DecoderSpec> parts;
  each_part(value, "decoders", where, [&](const JsonValue& part, const std::string& type) {
    push(parts, read_decoder(part, type, where), where);
  });
  return parts;
}

SentencePieceText read_sentencepiece_text(const JsonValue& value, const std::string& where) {
  SentencePieceText text{flag_of(value, "add_dummy_prefix", true, where),
                         flag_of(value, "remove_extra_spaces", true, where),
                         flag_of(value, "escape_spaces", true, where),
                         {}};
  if (const JsonValue* unused = value.find("unused"))
    for (const JsonValue& id : unused->array(where)) {
      if (id.count(where) >= uint64_t{1} << 24) throw bad(where, "wanted ids below 2^24, got {}", id.count(where));
      text.unused.push_back(static_cast<uint32_t>(id.count(where)));
    }
  return text;
}

std::vector<AddedToken> read_added_tokens(const JsonValue& value, const std::string& where) {
  std::vector<AddedToken> tokens;
  if (is_null(&value)) return tokens;
  for (const JsonValue& item : value.array(where)) {
    AddedToken token;
    const uint64_t id = count_of(item, "id", uint64_t{1} << 32, where);
    if (id >= uint64_t{1} << 24) throw bad(where, "wanted an id below 2^24, got {}", id);
    token.id = static_cast<uint32_t>(id);
    token.content = text_of(item, "content", "", where);
    token.single_word = flag_of(item, "single_word", false, where);
    token.lstrip = flag_of(item, "lstrip", false, where);
    token.rstrip = flag_of(item, "rstrip", false, where);
    token.special = flag_of(item, "special", false, where);
    token.normalized = flag_of(item, "normalized", !token.special, where);
    if (!token.content.empty()) tokens.push_back(std::move(token));
  }
  return tokens;
}

std::string to_json(const std::vector<NormalizerSpec>& parts) { return list_json(parts, "normalizers"); }
std::string to_json(const std::vector<PreTokenizerSpec>& parts) { return list_json(parts, "pretokenizers"); }
std::string to_json(const std::optional<std::vector<DecoderSpec>>& parts) {
  if (!parts) return "null";
  return parts->empty() ? sequence(*parts, "decoders") : list_json(*parts, "decoders");
}

std::string to_json(const AddedToken& token) {
  return fmt::format(
      "{{\"id\": {}, \"content\": {}, \"single_word\": {}, \"lstrip\": {}, \"rstrip\": {}, \"normalized\": {}, "
      "\"special\": {}}}",
      token.id, json_quote(token.content), yes(token.single_word), yes(token.lstrip), yes(token.rstrip),
      yes(token.normalized), yes(token.special));
}

std::string to_json(const SentencePieceText& text) {
  return fmt::format(
      "{{\"add_dummy_prefix\": {}, \"remove_extra_spaces\": {}, \"escape_spaces\": {}, \"unused\": [{}]}}",
      yes(text.add_dummy_prefix), yes(text.remove_extra_spaces), yes(text.escape_spaces), fmt::join(text.unused, ", "));
}

std::string to_json(const JsonValue& value) {
  struct Visitor {
    std::string operator()(std::nullptr_t) const { return "null"; }
    std::string operator()(bool flag) const { return yes(flag); }
    std::string operator()(uint64_t number) const { return fmt::format("{}", number); }
    std::string operator()(int64_t number) const { return fmt::format("{}", number); }
    std::string operator()(double number) const {
      const std::string text = fmt::format("{}", number);
      return text.find_first_of(".e") == text.npos ? text + ".0" : text;
    }
    std::string operator()(const std::string& text) const { return json_quote(text); }
    std::string operator()(const JsonValue::Array& items) const {
      std::string text = "[";
      for (size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : ", ") + to_json(items[i]);
      return text + "]";
    }
    std::string operator()(const JsonValue::Object& members) const {
      std::string text = "{";
      for (size_t i = 0; i < members.size(); ++i)
        text += (i == 0 ? "" : ", ") + json_quote(members[i].name) + ": " + to_json(members[i].value);
      return text + "}";
    }
  };
  return std::visit(Visitor(), value.content());
}

}  // namespace capstan
