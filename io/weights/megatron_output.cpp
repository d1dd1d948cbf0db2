#include "io/weights/megatron_output.h"

#include <cstring>

#include "core/error.h"
#include "io/checkpoint/digest.h"
#include "io/corpus/corpus.h"
#include "io/corpus/megatron_index.h"
#include "io/corpus/shard.h"
#include "io/partial_claim.h"
#include "io/safetensors.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kFewTokens = 65500;

fs::path path_with(const fs::path& prefix, const char* suffix) { return prefix.string() + suffix; }

template <typename Number>
void append_number(std::string& out, Number value) {
  char bytes[sizeof(Number)];
  std::memcpy(bytes, &value, sizeof(Number));
  out.append(bytes, sizeof(Number));
}

/// Takes what did not get its name away.
struct Leftovers {
  fs::path aside;
  ~Leftovers() {
    std::error_code ignored;
    for (const char* suffix : {".bin", ".idx"}) fs::remove(path_with(aside, suffix), ignored);
  }
};

/// Words of `from` bytes as words of `to`.
void rewrite_words(const std::vector<char>& words, uint64_t from, uint64_t to, std::string& out) {
  const uint64_t count = words.size() / from;
  out.assign(count * to, '\0');
  for (uint64_t i = 0; i < count; ++i) std::memcpy(out.data() + i * to, words.data() + i * from, std::min(from, to));
}

/// Tokens of one shard after another.
template <typename Chunk, typename Document>
void walk_tokens(const Corpus& corpus, Split split, uint64_t width, Chunk&& chunk, Document&& document) {
  const CorpusManifest& manifest = corpus.manifest();
  std::vector<char> words;
  std::string out;
  for (const ShardRecord& record : manifest.split(split).shards) {
    const CorpusShard shard(corpus.directory(), record, manifest);
    for (uint64_t i = 0; i < shard.chunks(); ++i) {
      words.resize(shard.tokens_in(i) * manifest.token_width());
      shard.read_chunk(i, words.data());
      rewrite_words(words, manifest.token_width(), width, out);
      chunk(out);
    }
    const std::vector<uint64_t> offsets = shard.read_document_offsets();
    for (size_t i = 0; i + 1 < offsets.size(); ++i) document(offsets[i + 1] - offsets[i]);
  }
}

std::string index_text(const std::vector<uint64_t>& lengths, uint64_t width) {
  std::string out(kMegatronMagic);
  append_number(out, kMegatronVersion);
  append_number(out, static_cast<uint8_t>(width == 2 ? MegatronType::u16 : MegatronType::i32));
  append_number<uint64_t>(out, lengths.size());
  append_number<uint64_t>(out, lengths.size() + 1);
  for (const uint64_t length : lengths) {
    if (length > static_cast<uint64_t>(INT32_MAX))
      throw Error::make(ExitCode::bad_data, "a document of {} tokens: Megatron's index holds at most 2^31 - 1", length);
    append_number(out, static_cast<int32_t>(length));
  }
  uint64_t at = 0;
  for (const uint64_t length : lengths) append_number(out, static_cast<int64_t>(at)), at += length * width;
  for (uint64_t i = 0; i <= lengths.size(); ++i) append_number(out, static_cast<int64_t>(i));
  return out;
}

/// By the reader that takes such datasets in.
void read_back(const fs::path& prefix, const std::vector<uint64_t>& lengths, const Digest128& wanted) {
  MegatronIndex index(path_with(prefix, ".bin"));
  DigestStream digest;
  std::vector<char> block(size_t{4} << 20);
  const uint64_t bytes = size_of(index.data(), index.path());
  for (uint64_t at = 0; at < bytes; at += block.size()) {
    const uint64_t n = std::min<uint64_t>(block.size(), bytes - at);
    read_exactly(index.data(), index.path(), block.data(), at, n);
    digest.update(block.data(), n);
  }
  MegatronDocument document;
  uint64_t found = 0;
  bool same = digest.value() == wanted;
  for (; same && index.next(document); ++found) same = found < lengths.size() && document.tokens == lengths[found];
  if (!same || found != lengths.size())
    throw Error::make(ExitCode::io_error, "{}: what was read back is not what was written", prefix.string());
}

}  // namespace

MegatronCounts write_megatron(const fs::path& corpus_path, const std::string& split_name, const fs::path& prefix,
                              bool verify, const std::function<void(uint64_t, uint64_t)>& progress) {
  const auto corpus = Corpus::open(corpus_path);
  corpus->require_shards();
  const Split split = split_name == "validation" ? Split::validation : Split::train;
  const fs::path data = path_with(prefix, ".bin"), index = path_with(prefix, ".idx");
  for (const fs::path& path : {data, index}) refuse_taken(path);
  const uint64_t total = corpus->manifest().split(split).tokens();
  const uint64_t width = corpus->manifest().vocabulary < kFewTokens ? 2 : 4;
  const fs::path aside =
      path_with(prefix, ".partial");  // both files lie aside under a common prefix until they are proved
  const PartialClaim claim(path_with(aside, ".bin"), PartialClaim::Kind::file);
  const Leftovers leftovers{aside};
  for (const fs::path& path : {data, index}) refuse_taken(path);  // by one that ended before the claim
  DurableFile data_file(path_with(aside, ".bin"));
  DigestStream digest;
  std::vector<uint64_t> lengths;
  MegatronCounts counts{0, 0, width};
  walk_tokens(
      *corpus, split, width,
      [&](const std::string& words) {
        data_file.write(words);
        digest.update(words.data(), words.size());
        progress(counts.tokens += words.size() / width, total);
      },
      [&](uint64_t tokens) { lengths.push_back(tokens); });
  counts.documents = lengths.size();
  data_file.sync_and_close();
  DurableFile index_file(path_with(aside, ".idx"));
  index_file.write(index_text(lengths, width));
  index_file.sync_and_close();
  if (verify) read_back(aside, lengths, digest.value());
  rename_durably(path_with(aside, ".bin"), data);
  rename_durably(path_with(aside, ".idx"), index);
  return counts;
}

}  // namespace capstan
