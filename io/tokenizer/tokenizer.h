#pragma once
// Tokenizer: text to token ids and back. A corpus directory carries its own tokenizer as `tokenizer.json`; two
// tokenizers are the same exactly when their hash() is, and shards, manifests and checkpoints name them by it.
// A Tokenizer is immutable and shared by threads; what encodes (word cache, scratch) is a TokenEncoder, one a thread.
// Rule: text is text. Unless EncodeOptions says otherwise, the name of a special token inside a text is encoded as
// ordinary characters, so a document cannot forge the end of a document; who writes documents appends
// end_of_document(), and in a token stream that id marks document boundaries and nothing else.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

struct EncodeOptions {
  bool special_tokens = false;  ///< read the names of special tokens inside the text as those tokens
};

/// Encodes for one thread; keeps a word cache. Equal text gives equal tokens, whatever was encoded before.
class TokenEncoder {
 public:
  virtual ~TokenEncoder() = default;
  /// Appends the tokens of the next piece of a document. Pieces must be cut where may_cut() allows; `begins` says that
  /// a document begins here (some tokenizers put a space before it). Invalid UTF-8 is accepted.
  virtual void encode(std::string_view text, bool begins, std::vector<uint32_t>& tokens) = 0;
};

/// Turns tokens into text as they come.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  /// Appends the text that is certain after `token`: bytes of a character that is not complete are held back. The end
  /// of document and other special tokens have no text. Error bad_data for an id beyond the vocabulary.
  virtual void push(uint32_t token, std::string& text) = 0;
  /// What was held back, when nothing follows.
  virtual void finish(std::string& text) = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string name() const = 0;
  /// Token ids are 0 .. vocabulary() - 1, the end of document among them.
  virtual uint32_t vocabulary() const = 0;
  virtual uint32_t end_of_document() const = 0;

  virtual std::unique_ptr<TokenEncoder> encoder(const EncodeOptions& options = {}) const = 0;
  virtual std::unique_ptr<TokenDecoder> decoder() const = 0;
  /// Whether encoding text before and after `at` separately gives the same tokens as encoding it whole: for most
  /// tokenizers after a line end between two visible ASCII characters; never for some.
  virtual bool may_cut(std::string_view text, size_t at) const;
  /// Bytes of text that a token stands for (0 for special tokens): what bits per byte divides by.
  virtual uint32_t text_bytes(uint32_t token) const = 0;
  /// The token's name in tokenizer.json ("" for an id that has none), and back.
  virtual std::string token_name(uint32_t token) const = 0;
  virtual std::optional<uint32_t> find_token(std::string_view name) const = 0;
  /// Puts the special tokens around a text's tokens that the tokenizer's own template wants (BERT's [CLS] and [SEP]).
  virtual void add_special_tokens(std::vector<uint32_t>& tokens) const;
  /// Contents of tokenizer.json, the same bytes for the same tokenizer.
  virtual std::string description() const = 0;

  /// One document at once.
  std::vector<uint32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  std::string decode(std::span<const uint32_t> tokens) const;
  /// xxh3-128 of description(), in hexadecimal.
  std::string hash() const;
  /// Writes tokenizer.json into `directory`.
  void save(const std::filesystem::path& directory) const;
};

/// From a file (tokenizer.json, a SentencePiece model, a tiktoken rank file, vocab.json beside merges.txt, vocab.txt),
/// or from a directory that holds one. `end_of_document`: name of the token that ends documents; empty: the one that
/// the file or its tokenizer_config.json says, else the usual names in turn. Error missing_input or bad_data.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path, std::string_view end_of_document = {});

/// What a user names on the command line: "bytes", or a path for load_tokenizer.
std::unique_ptr<Tokenizer> tokenizer_from_name(const std::string& name_or_path, std::string_view end_of_document = {});

}  // namespace capstan
