#include "io/tokenizer.h"

#include "core/error.h"
#include "io/checkpoint_digest.h"
#include "io/corpus_json.h"
#include "io/file_system.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFileName = "tokenizer.json";
constexpr uint64_t kLargestFile = uint64_t{256} << 20;

std::unique_ptr<Tokenizer> parse_tokenizer(const std::string& text, const std::string& where) {
  const JsonValue root = parse_json(text, where);
  const JsonObject object(root, where);
  const std::string type = object.text("type");
  if (type != "bytes")
    throw Error::make(ExitCode::bad_data, "{}: wanted a tokenizer of type \"bytes\", got \"{}\"", where, type);
  auto tokenizer = std::make_unique<ByteTokenizer>();
  const uint64_t vocabulary = object.number("vocabulary"), end = object.number("end_of_document");
  if (vocabulary != tokenizer->vocabulary() || end != tokenizer->end_of_document())
    throw Error::make(ExitCode::bad_data,
                      "{}: a bytes tokenizer has vocabulary {} and end_of_document {}, the file says {} and {}", where,
                      tokenizer->vocabulary(), tokenizer->end_of_document(), vocabulary, end);
  return tokenizer;
}

}  // namespace

std::vector<uint32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<uint32_t> tokens;
  encode_into(text, tokens);
  return tokens;
}

std::string Tokenizer::hash() const { return digest128_of(description()).hex(); }

void Tokenizer::save(const fs::path& directory) const { write_file_atomically(directory / kFileName, description()); }

void ByteTokenizer::encode_into(std::string_view text, std::vector<uint32_t>& tokens) const {
  const size_t before = tokens.size();
  tokens.resize(before + text.size());
  for (size_t i = 0; i < text.size(); ++i) tokens[before + i] = static_cast<unsigned char>(text[i]);
}

std::string ByteTokenizer::decode(std::span<const uint32_t> tokens) const {
  std::string text;
  text.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= vocabulary())
      throw Error::make(ExitCode::bad_data, "cannot decode token {} at place {}: wanted an id below {}", tokens[i], i,
                        vocabulary());
    if (tokens[i] != kEndOfDocument) text.push_back(static_cast<char>(tokens[i]));
  }
  return text;
}

std::string ByteTokenizer::description() const {
  return "{\"type\": \"bytes\", \"version\": 1, \"vocabulary\": 257, \"end_of_document\": 256}\n";
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const fs::path file = fs::is_directory(path) ? path / kFileName : path;
  return parse_tokenizer(read_whole_file(file, kLargestFile), file.string());
}

std::unique_ptr<Tokenizer> tokenizer_from_name(const std::string& name_or_path) {
  if (name_or_path == "bytes") return std::make_unique<ByteTokenizer>();
  if (!fs::exists(name_or_path))
    throw Error::make(ExitCode::missing_input, "--tokenizer: wanted \"bytes\" or a tokenizer file, there is no \"{}\"",
                      name_or_path);
  return load_tokenizer(name_or_path);
}

}  // namespace capstan
