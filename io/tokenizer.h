#pragma once
// Tokenizer: text to token ids and back. A corpus directory carries its own tokenizer as `tokenizer.json`; two
// tokenizers are the same exactly when their hash() is, and shards, manifests and checkpoints name them by it.
// Rule: encode() never produces end_of_document(); who writes documents appends it, so in a token stream that id marks
// document boundaries and nothing else.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string name() const = 0;
  /// Token ids are 0 .. vocabulary() - 1, the end of document among them.
  virtual uint32_t vocabulary() const = 0;
  virtual uint32_t end_of_document() const = 0;

  /// Appends the tokens of `text` to `tokens`.
  virtual void encode_into(std::string_view text, std::vector<uint32_t>& tokens) const = 0;
  /// Text of the tokens; the end of document has none. Error bad_data for an id beyond the vocabulary.
  virtual std::string decode(std::span<const uint32_t> tokens) const = 0;
  /// Bytes of text that a token stands for (0 for the end of document): what bits per byte divides by.
  virtual uint32_t text_bytes(uint32_t token) const = 0;
  /// Contents of tokenizer.json, the same bytes for the same tokenizer.
  virtual std::string description() const = 0;

  std::vector<uint32_t> encode(std::string_view text) const;
  /// xxh3-128 of description(), in hexadecimal.
  std::string hash() const;
  /// Writes tokenizer.json into `directory`.
  void save(const std::filesystem::path& directory) const;
};

/// Every byte is a token; id 256 ends a document. Needs no training and loses nothing.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr uint32_t kEndOfDocument = 256;

  std::string name() const override { return "bytes"; }
  uint32_t vocabulary() const override { return 257; }
  uint32_t end_of_document() const override { return kEndOfDocument; }
  void encode_into(std::string_view text, std::vector<uint32_t>& tokens) const override;
  std::string decode(std::span<const uint32_t> tokens) const override;
  uint32_t text_bytes(uint32_t token) const override { return token < kEndOfDocument ? 1 : 0; }
  std::string description() const override;
};

/// From tokenizer.json, or from a directory that holds one. Error missing_input or bad_data.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// What a user names on the command line: "bytes", or a path for load_tokenizer.
std::unique_ptr<Tokenizer> tokenizer_from_name(const std::string& name_or_path);

}  // namespace capstan
