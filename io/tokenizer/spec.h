#pragma once
// TokenizerSpec: a tokenizer as data, one struct for each kind of component that Hugging Face `tokenizers` writes. It
// is what every file format is read into (tokenizer.json, SentencePiece, tiktoken, vocabulary files, our own trainer),
// what tokenizer.json is written from, and what the pipeline is built from. Sequences are flat lists: nesting means
// nothing. Texts are as in tokenizer.json; in a byte-level vocabulary pieces therefore are printable symbols here.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "io/json_events.h"
#include "io/tokenizer/bpe_model.h"
#include "io/tokenizer/piece_table.h"

namespace capstan {

struct AddedToken {
  uint32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
  bool operator==(const AddedToken&) const = default;
};

struct TextPattern {
  std::string text;
  bool regex = false;
};

/// What becomes of the stretches that a pattern matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Normalizers: text to text.
struct UnicodeForm {
  enum class Form { nfc, nfd, nfkc, nfkd } form = Form::nfc;
};
struct Lowercase {};
struct Nmt {};
struct StripAccents {};
struct ByteLevelNormalizer {};
struct StripSpace {
  bool left = true, right = true;
};
struct Replace {
  TextPattern pattern;
  std::string content;
};
struct Prepend {
  std::string text;
};
struct BertNormalizer {
  bool clean_text = true, handle_chinese_chars = true;
  std::optional<bool> strip_accents;
  bool lowercase = true;
};
struct Precompiled {
  std::string charsmap;  ///< SentencePiece's, binary
};
using NormalizerSpec = std::variant<UnicodeForm, Lowercase, Nmt, StripAccents, ByteLevelNormalizer, StripSpace, Replace,
                                    Prepend, BertNormalizer, Precompiled>;

// Pre-tokenizers: text to words.
struct ByteLevel {
  bool add_prefix_space = true, trim_offsets = true, use_regex = true;
};
struct PatternSplit {
  TextPattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
};
struct BertSplit {};
struct WordsAndSigns {};  ///< "Whitespace": \w+|[^\w\s]+
struct WhitespaceSplit {};
struct UnicodeScripts {};
struct Metaspace {
  enum class Scheme { always, first, never };
  std::string replacement = "\u2581";  ///< one character
  Scheme scheme = Scheme::always;
  bool split = true;
};
struct Digits {
  bool individual = false;
};
struct Punctuation {
  SplitBehavior behavior = SplitBehavior::isolated;
};
struct DelimiterSplit {
  std::string delimiter;  ///< one character
};
struct FixedLength {
  uint64_t length = 5;
};
using PreTokenizerSpec = std::variant<ByteLevel, PatternSplit, BertSplit, WordsAndSigns, WhitespaceSplit,
                                      UnicodeScripts, Metaspace, Digits, Punctuation, DelimiterSplit, FixedLength>;

// Decoders: pieces to text.
struct WordPieceDecoder {
  std::string prefix = "##";
  bool cleanup = true;
};
struct BpeDecoder {
  std::string suffix = "</w>";
};
struct ByteFallback {};
struct Fuse {};
struct StripDecoder {
  std::string content;  ///< one character
  uint64_t start = 0, stop = 0;
};
struct CtcDecoder {
  std::string pad_token = "<pad>", word_delimiter_token = "|";
  bool cleanup = true;
};
using DecoderSpec = std::variant<ByteLevel, Metaspace, WordPieceDecoder, BpeDecoder, ByteFallback, Fuse, StripDecoder,
                                 Replace, CtcDecoder>;

// Models: a word to tokens. Their vocabulary is TokenizerSpec::pieces.
struct BpeParts {
  std::vector<BpeSpec::Merge> merges;
  std::optional<std::string> unknown;
  std::string continuing_prefix, end_suffix;
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};
struct UnigramParts {
  std::vector<double> scores;  ///< by id
  std::optional<uint32_t> unknown;
  bool byte_fallback = false;
};
struct WordPieceParts {
  std::string unknown = "[UNK]", continuing_prefix = "##";
  uint64_t longest_word = 100;  ///< characters
};
struct WordLevelParts {
  std::string unknown = "<unk>";
};
using ModelSpec = std::variant<BpeParts, UnigramParts, WordPieceParts, WordLevelParts>;

/// How SentencePiece itself makes text ready, where a tokenizer comes from a `.model` file: Hugging Face's components
/// are close to it, not equal, so they are written for Hugging Face and this is what we encode with.
struct SentencePieceText {
  bool add_dummy_prefix = true, remove_extra_spaces = true, escape_spaces = true;
  std::vector<uint32_t> unused;  ///< pieces that text never becomes
};

struct TokenizerSpec {
  std::string name;             ///< "" when nobody gave one
  std::string end_of_document;  ///< name of a token; "" when nobody chose
  std::vector<AddedToken> added;
  std::vector<NormalizerSpec> normalizer;
  std::vector<PreTokenizerSpec> pre_tokenizer;
  std::optional<std::vector<DecoderSpec>> decoder;
  std::optional<SentencePieceText> sentencepiece;
  bool equal_results_tie = false;  ///< merges of equal result that follow each other have one rank (tiktoken)
  JsonValue truncation, padding, post_processor;  ///< as in the file
  std::vector<std::string> pieces;                ///< of the model, by id; empty: no such id
  ModelSpec model;

  /// Whether words reach the model as bytes: the last pre-tokenizer is ByteLevel and the model a BPE without affixes
  /// that has a piece for each byte.
  bool byte_level(const PieceTable& table_of_pieces) const;
};

/// Error bad_data that begins with `where` and names what is wrong, and, for a component of another kind, those known.
TokenizerSpec read_tokenizer_json(std::string_view text, const std::string& where);
/// The same bytes for the same spec; Hugging Face `tokenizers` reads it.
std::string write_tokenizer_json(const TokenizerSpec& spec);

}  // namespace capstan
