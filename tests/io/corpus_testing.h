#pragma once
// What the corpus tests share: a directory that goes away, text files in it, errors as values, and whole corpora.

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/corpus/builder.h"
#include "io/corpus/corpus.h"
#include "io/file_system.h"
#include "io/tokenizer/byte_tokenizer.h"

namespace capstan::testing_corpus {

namespace fs = std::filesystem;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    // Memory where there is some: these tests sync often and prove nothing about a real disk.
    std::string name = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    name += "/capstan_corpus_test.XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline void put(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}
inline std::string get(const fs::path& path) { return read_whole_file(path, uint64_t{1} << 30); }

struct Outcome {
  ExitCode code = ExitCode::done;
  std::string message;
  bool says(const std::string& word) const { return message.find(word) != std::string::npos; }
};

inline Outcome outcome_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

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
