#pragma once
// Corpus: a directory made by `corpus build`, opened. Opening reads the manifest and the tokenizer, proves that they
// belong together, and looks at the first 256 shards: they are there and have their sizes. It takes milliseconds
// however many shards there are. require_shards(), which every stream calls, finds any missing one by one reading of
// the directory; the sizes of further shards are looked at when they are opened, or all at once by check_sizes(). No
// shard is opened yet, HDF5 is not touched. Shared and immutable: streams of all ranks in a process may hold the same
// one.

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/corpus/manifest.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

class Corpus {
 public:
  /// Error missing_input or bad_data.
  static std::shared_ptr<const Corpus> open(const std::filesystem::path& directory);

  /// Every shard is there. Error missing_input or bad_data.
  void require_shards() const;
  /// Every shard has the size that the manifest gives. Error missing_input or bad_data.
  void check_sizes() const;

  const std::filesystem::path& directory() const { return directory_; }
  const CorpusManifest& manifest() const { return manifest_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::shared_ptr<const Tokenizer> shared_tokenizer() const { return tokenizer_; }
  /// Names the corpus to its last bit: the manifest's digest of itself.
  const std::string& digest() const { return manifest_.digest; }

 private:
  Corpus() = default;
  std::filesystem::path directory_;
  CorpusManifest manifest_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

/// Manifest and tokenizer of a directory, proved to belong together; shards are not looked at.
CorpusManifest read_matching_manifest(const std::filesystem::path& directory,
                                      std::shared_ptr<const Tokenizer>& tokenizer);

struct CorpusVerifyProgress {
  uint64_t bytes = 0, total = 0;  ///< of shards
};

struct CorpusProblem {
  ExitCode code;
  std::string message;  ///< names shard and, where it can, chunk
};

/// Reads every byte that the manifest vouches for: all chunks, tables and document boundaries of all shards. Goes on
/// after a bad chunk; what it finds comes back, at most `limit` problems.
std::vector<CorpusProblem> verify_corpus(const std::filesystem::path& directory, size_t limit,
                                         const std::function<void(const CorpusVerifyProgress&)>& progress = {});

/// The first `tokens` tokens of a split as text, for a look.
std::string corpus_sample(const Corpus& corpus, Split split, uint64_t tokens);

}  // namespace capstan
