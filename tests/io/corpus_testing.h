#pragma once
// What the corpus tests share: a directory that goes away, text files in it, errors as values, and whole corpora.

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "io/corpus/builder.h"
#include "io/corpus/corpus.h"
#include "io/file_system.h"
#include "io/tokenizer/byte_tokenizer.h"
#include "tests/support/outcome.h"
#include "tests/support/temporary_directory.h"

namespace capstan::testing_corpus {

namespace fs = std::filesystem;

using support::Outcome;
using support::outcome_of;
using support::TemporaryDirectory;

inline void put(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}
inline std::string get(const fs::path& path) { return read_whole_file(path, uint64_t{1} << 30); }

/// Words of small letters and line ends, the same for the same seed.
inline std::string some_text(size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(bytes, ' ');
  for (char& c : text) {
    const unsigned draw = random() % 32;
    c = draw < 26 ? static_cast<char>('a' + draw) : draw == 26 ? '\n' : ' ';
  }
  return text;
}

inline CorpusBuildResult build(const fs::path& out, const std::vector<fs::path>& inputs,
                               uint64_t shard_tokens = 1 << 26, std::optional<double> validation = {}) {
  CorpusBuildOptions options;
  options.out = out;
  options.inputs = inputs;
  options.shard_tokens = shard_tokens;
  options.validation = validation;
  return build_corpus(options, ByteTokenizer());
}

/// JSONL of `documents`, each with the field "text".
inline void put_jsonl(const fs::path& path, const std::vector<std::string>& documents) {
  std::string lines;
  for (const std::string& document : documents) {
    lines += "{\"text\": \"";
    for (const char c : document) lines += c == '\n' ? std::string("\\n") : std::string(1, c);
    lines += "\"}\n";
  }
  put(path, lines);
}

inline std::vector<std::string> some_documents(size_t count, unsigned seed) {
  std::vector<std::string> documents;
  std::mt19937 random(seed);
  for (size_t i = 0; i < count; ++i)
    documents.push_back(some_text(1 + random() % 400, static_cast<unsigned>(seed * 1000 + i)));
  return documents;
}

}  // namespace capstan::testing_corpus
