#pragma once
// build_corpus: text in, a corpus directory out. Shards get their final names one by one, the manifest comes last, and
// `corpus.building` stands in the directory until then; so a killed build is recognised, refused by readers and simply
// run again. Nothing that a build did not make is ever removed. The same inputs and options give the same bytes.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "io/corpus_manifest.h"
#include "io/document_reader.h"
#include "io/tokenizer.h"

namespace capstan {

struct CorpusBuildOptions {
  std::filesystem::path out;
  std::vector<std::filesystem::path> inputs;
  DocumentOptions documents;
  std::optional<double> validation;           ///< share held out; absent: 1%, or a tenth of fewer than 100 documents
  uint64_t shard_tokens = uint64_t{1} << 26;  ///< a shard ends with the document that reaches this
};

struct CorpusBuildProgress {
  const char* stage = "";
  uint64_t input_bytes = 0;  ///< read so far, as on disk
  uint64_t input_total = 0;
  uint64_t documents = 0;
  uint64_t tokens = 0;
};

struct CorpusBuildResult {
  CorpusManifest manifest;
  bool split_by_document = true;
  uint64_t empty_documents = 0;
  std::vector<std::filesystem::path> skipped;
};

/// Errors: usage, missing_input, bad_data (inputs), cannot_create (a corpus or other files are there), io_error.
CorpusBuildResult build_corpus(const CorpusBuildOptions& options, const Tokenizer& tokenizer,
                               const std::function<void(const CorpusBuildProgress&)>& progress = {});

}  // namespace capstan
