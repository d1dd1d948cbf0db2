// load_tokenizer(): which kind of file a path is, and which token ends documents.

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/corpus/json.h"
#include "io/file_system.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "io/tokenizer/component_json.h"
#include "io/tokenizer/pipeline.h"
#include "io/tokenizer/token_files.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kLargestFile = uint64_t{256} << 20;
constexpr uint64_t kLargestConfig = uint64_t{16} << 20;

/// The only file that is not Hugging Face's tokenizer.json: {"type": "bytes", ...}.
bool is_bytes_file(std::string_view text) { return text.size() < 4096 && text.find("\"model\"") == text.npos; }

std::unique_ptr<Tokenizer> read_bytes_file(const std::string& text, const std::string& where) {
  const JsonValue root = parse_json(text, where);
  if (root.find("type") == nullptr)
    throw Error::make(ExitCode::bad_data, "{}: wanted a tokenizer.json, with a member \"model\", got another file",
                      where);
  const JsonObject object(root, where);
  const std::string type = object.text("type");
  if (type != "bytes")
    throw Error::make(ExitCode::bad_data,
                      "{}: wanted a tokenizer with a \"model\", or one of type \"bytes\", got type \"{}\"", where,
                      type);
  auto tokenizer = std::make_unique<ByteTokenizer>();
  const uint64_t vocabulary = object.number("vocabulary"), end = object.number("end_of_document");
  if (vocabulary != tokenizer->vocabulary() || end != tokenizer->end_of_document())
    throw Error::make(ExitCode::bad_data,
                      "{}: a bytes tokenizer has vocabulary {} and end_of_document {}, the file says {} and {}", where,
                      tokenizer->vocabulary(), tokenizer->end_of_document(), vocabulary, end);
  return tokenizer;
}

/// What tokenizer_config.json beside the file says of a setting that may be a string or an added token; "" if nothing.
struct Config {
  std::string end_token;
  bool lowercase = true;
};

Config read_config(const fs::path& directory) {
  Config config;
  const fs::path file = directory / "tokenizer_config.json";
  if (!file_at(file)) return config;
  const JsonValue root = parse_json(read_whole_file(file, kLargestConfig), file.string(), {64, 1 << 20, 4096, 8 << 20});
  if (const JsonValue* end = root.find("eos_token"); !is_null(end))
    config.end_token = end->find("content") != nullptr ? text_of(*end, "content", "", file.string())
                                                       : text_of(root, "eos_token", "", file.string());
  config.lowercase = flag_of(root, "do_lower_case", true, file.string());
  return config;
}

/// The file in a directory that says most.
fs::path file_in(const fs::path& directory) {
  constexpr std::array names = {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
                                "tekken.json",    "vocab.json",      "vocab.txt"};
  for (const char* name : names)
    if (file_at(directory / name)) return directory / name;
  std::vector<fs::path> ranks;
  std::error_code problem;
  for (fs::directory_iterator at(directory, problem), end; !problem && at != end; at.increment(problem))
    if (at->path().extension() == ".tiktoken") ranks.push_back(at->path());
  if (problem) throw cannot_open(directory, problem.value());
  if (ranks.size() == 1) return ranks[0];
  return directory / "tokenizer.json";
}

TokenizerSpec read_spec(const fs::path& file, const Config& config) {
  const std::string where = file.string(), name = file.filename().string();
  const std::string extension = file.extension().string();
  const std::string bytes = read_whole_file(file, kLargestFile);
  if (extension == ".model") {
    // LLaMA 3 and 4 ship tiktoken ranks under the name of SentencePiece's file; 4 has half as many again.
    const bool ranks = bytes.find('\0') == std::string::npos && bytes.substr(0, 64).find(' ') != std::string::npos;
    const bool many = std::count(bytes.begin(), bytes.end(), '\n') > 160000;
    if (ranks) return read_tiktoken(bytes, many ? "llama4" : "llama3", where);
    return read_sentencepiece(bytes, where);
  }
  if (extension == ".tiktoken" || (extension.empty() && !tiktoken_pattern_of(name).empty())) {
    const std::string pattern = tiktoken_pattern_of(name);
    if (pattern.empty())
      throw Error::make(
          ExitCode::bad_data,
          "{}: a tiktoken file's name must tell its pattern (r50k, p50k, cl100k, o200k, qwen, llama3 or llama4)",
          where);
    return read_tiktoken(bytes, pattern, where);
  }
  if (name == "vocab.json" || name == "merges.txt" || name == "encoder.json" || name == "vocab.bpe") {
    const bool openai = name == "encoder.json" || name == "vocab.bpe";
    const fs::path vocabulary = file.parent_path() / (openai ? "encoder.json" : "vocab.json");
    const fs::path merges = file.parent_path() / (openai ? "vocab.bpe" : "merges.txt");
    return read_gpt2_files(read_whole_file(vocabulary, kLargestFile), read_whole_file(merges, kLargestFile), where);
  }
  if (name.starts_with("tekken")) return read_tekken(bytes, where);
  if (extension == ".txt") return read_word_piece_file(bytes, config.lowercase, where);
  return read_tokenizer_json(bytes, where);
}

}  // namespace

void choose_end_of_document(TokenizerSpec& spec, std::string_view wanted, std::string_view configured,
                            const std::string& where) {
  const auto known = [&](std::string_view name) {
    return !name.empty() &&
           (std::find(spec.pieces.begin(), spec.pieces.end(), name) != spec.pieces.end() ||
            std::any_of(spec.added.begin(), spec.added.end(), [&](const AddedToken& t) { return t.content == name; }));
  };
  if (!wanted.empty()) {
    if (!known(wanted))
      throw Error::make(ExitCode::bad_data, "{}: the token \"{}\" that is to end documents is not in the vocabulary",
                        where, wanted);
    spec.end_of_document = wanted;
    return;
  }
  if (!spec.end_of_document.empty()) return;
  for (const std::string_view name :
       {configured, std::string_view("<|endoftext|>"), std::string_view("<|end_of_text|>"), std::string_view("</s>"),
        std::string_view("<eos>"), std::string_view("<|im_end|>"), std::string_view("[EOS]"),
        std::string_view("[SEP]")}) {
    if (!known(name)) continue;
    spec.end_of_document = name;
    return;
  }
  throw Error::make(ExitCode::bad_data,
                    "{}: no token is known to end documents (tried <|endoftext|> <|end_of_text|> </s> <eos> <|im_end|> "
                    "[EOS] [SEP]); name one with --end-of-document",
                    where);
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path, std::string_view end_of_document) {
  const fs::path file = directory_at(path) ? file_in(path) : path;
  const std::string where = file.string();
  if (file.extension() == ".json") {
    const std::string text = read_whole_file(file, kLargestFile);
    if (is_bytes_file(text) && file.filename() != "vocab.json") return read_bytes_file(text, where);
  }
  const Config config = read_config(file.parent_path());
  TokenizerSpec spec = read_spec(file, config);
  choose_end_of_document(spec, end_of_document, config.end_token, where);
  return std::make_unique<PipelineTokenizer>(std::move(spec), where);
}

std::unique_ptr<Tokenizer> tokenizer_from_name(const std::string& name_or_path, std::string_view end_of_document) {
  if (name_or_path == "bytes") return std::make_unique<ByteTokenizer>();
  if (!anything_at(name_or_path))
    throw Error::make(ExitCode::missing_input, "--tokenizer: wanted \"bytes\" or a tokenizer file, there is no \"{}\"",
                      name_or_path);
  return load_tokenizer(name_or_path, end_of_document);
}

}  // namespace capstan
