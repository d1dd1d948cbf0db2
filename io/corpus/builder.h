#pragma once
// build_corpus: text in, a corpus directory out. Inputs are read, parsed and encoded by all threads (build_pipeline.h)
// and written in order by one. Shards get their final names one by one, the manifest comes last, and `corpus.building`,
// the journal of what is finished, stands in the directory until then; so a killed build is recognised, refused by
// readers, and goes on from its finished shards when it is run again. Nothing that a build did not make is ever
// removed. The same inputs and options give the same bytes, whatever the number of threads and however often it was
// killed. Memory: see build_memory(); it does not grow with the inputs, but for 24 bytes a document when duplicates are
// dropped.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/corpus/inputs.h"
#include "io/corpus/manifest.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

struct CorpusBuildOptions {
  std::filesystem::path out;
  std::vector<std::filesystem::path> inputs;
  DocumentOptions documents;
  std::optional<double> validation;           ///< share held out; absent: 1%, or a tenth of fewer than 100 documents
  uint64_t shard_tokens = uint64_t{1} << 26;  ///< a shard ends with the document that reaches this
  bool drop_duplicates = false;               ///< keep the first of all documents of equal text
  uint64_t skip_bad = 0;                      ///< lines of JSONL that may hold no document
  int threads = 0;                            ///< 0: as many as there are processors
  std::string tokenizer_origin;               ///< how the tokenizer came about, for the journal
  std::shared_ptr<const InputList> listed;    ///< of `inputs`, when they were listed before (standard input: once only)
};

struct CorpusBuildProgress {
  const char* stage = "";
  uint64_t input_bytes = 0;  ///< done in this stage, as on disk
  uint64_t input_total = 0;  ///< 0: not known (standard input)
  uint64_t documents = 0;
  uint64_t tokens = 0;
};

struct CorpusBuildResult {
  CorpusManifest manifest;
  bool split_by_document = true;
  uint64_t empty_documents = 0;
  std::vector<std::filesystem::path> skipped;
  uint64_t duplicates = 0, duplicate_bytes = 0;
  uint64_t bad_lines = 0;
  std::vector<std::string> first_bad_lines;  ///< "file:line: why"
  uint64_t forced_cuts = 0;                  ///< pieces of very long documents cut where the tokenizer allows none
  uint64_t reused_shards = 0;                ///< finished by an earlier run
  std::string started_anew;                  ///< why an earlier run's shards were thrown away; empty: they were not
};

using CorpusBuildObserver = std::function<void(const CorpusBuildProgress&)>;

/// Errors: usage, missing_input, bad_data (inputs), cannot_create (a corpus or other files are there), io_error.
CorpusBuildResult build_corpus(const CorpusBuildOptions& options, const Tokenizer& tokenizer,
                               const CorpusBuildObserver& progress = {});

/// What the result of a build depends on, but for the tokenizer and the split: the journal of a build holds it.
std::vector<std::string> describe_request(const CorpusBuildOptions& options, const InputList& inputs);

/// What a build with so many threads takes at most, beside the tokenizer (its own caches are one a thread) and the
/// duplicates: for lines and documents of ordinary length. A line of JSONL of L bytes takes 6 L more.
uint64_t build_memory(int threads);

}  // namespace capstan
