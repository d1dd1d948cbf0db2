// label: cpu
// corpus build on many threads: the same bytes whatever their number, duplicates, bad lines, metadata, standard input,
// very long documents, and bounded memory.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <map>
#include <set>

#include "io/corpus/corpus_text.h"
#include "io/corpus/cut_rule.h"
#include "io/corpus/digest.h"
#include "io/corpus/document_parser.h"
#include "io/corpus/metadata_file.h"
#include "io/corpus/shard.h"
#include "io/corpus/text_set.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

// A child of this program that builds one corpus and exits with its peak memory in MiB: what a parent measures of
// itself would hold what earlier tests had taken.
[[maybe_unused]] const bool kChildIsDone = [] {
  const char *out = std::getenv("CAPSTAN_TEST_MEMORY_OUT"), *input = std::getenv("CAPSTAN_TEST_MEMORY_INPUT");
  if (!out || !input) return true;
  CorpusBuildOptions options;
  options.out = out;
  options.inputs = {input};
  options.threads = 2;
  build_corpus(options, ByteTokenizer());
  std::ifstream status("/proc/self/status");  // ru_maxrss would hold what the parent had when it forked
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) std::_Exit(std::atoi(line.c_str() + 6) / 2048);  // units of 2 MiB fit an exit code
  std::_Exit(255);
}();

long peak_mib(const fs::path& out, const fs::path& input) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("CAPSTAN_TEST_MEMORY_OUT", out.c_str(), 1);
    setenv("CAPSTAN_TEST_MEMORY_INPUT", input.c_str(), 1);
    execl("/proc/self/exe", "corpus_pipeline_test", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  return 2L * WEXITSTATUS(status);
}

std::string text_of(const fs::path& directory, Split split) {
  std::string text;
  corpus_text(*Corpus::open(directory), split, [&](std::string_view part) { text += part; });
  return text;
}

std::string unpacked(const fs::path& path) {
  const std::string packed = get(path);
  std::string text(size_t{1} << 24, '\0');
  const size_t size = ZSTD_decompress(text.data(), text.size(), packed.data(), packed.size());
  EXPECT_FALSE(ZSTD_isError(size)) << ZSTD_getErrorName(size);
  text.resize(ZSTD_isError(size) ? 0 : size);
  return text;
}

class CorpusPipeline : public testing::Test {
 protected:
  CorpusBuildOptions options(const std::string& out, const std::vector<fs::path>& inputs) const {
    CorpusBuildOptions made;
    made.out = directory_ / out;
    made.inputs = inputs;
    made.threads = 3;
    return made;
  }
  static CorpusBuildResult run(const CorpusBuildOptions& options) { return build_corpus(options, ByteTokenizer()); }

  void expect_same_files(const std::string& one, const std::string& other) const {
    size_t files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory_ / one)) {
      EXPECT_TRUE(get(entry.path()) == get(directory_ / other / entry.path().filename())) << entry.path();
      ++files;
    }
    EXPECT_GE(files, 4u);
  }

  TemporaryDirectory directory_;
};

TEST_F(CorpusPipeline, AnyNumberOfThreadsGivesTheSameBytes) {
  std::vector<fs::path> inputs;
  for (unsigned i = 0; i < 40; ++i) {
    const fs::path path = directory_ / fmt::format("{:02}.jsonl", i);
    std::string lines;
    for (const std::string& text : some_documents(i % 7 == 0 ? 2500 : 40, i)) {
      std::string quoted;
      for (const char c : text) quoted += c == '\n' ? std::string("\\n") : std::string(1, c);
      lines += fmt::format("{{\"id\": {}, \"text\": \"{}\"}}\n", i, quoted);
      if (text.size() % 9 == 0) lines += lines.substr(lines.rfind("{\"id\""));  // a duplicate
    }
    put(path, lines);
    inputs.push_back(path);
  }
  put(directory_ / "long.txt", some_text(9 << 20, 7));
  inputs.push_back(directory_ / "long.txt");
  std::optional<CorpusBuildResult> first;
  for (const int threads : {1, 2, 5, 16}) {
    CorpusBuildOptions made = options(fmt::format("c{}", threads), inputs);
    made.threads = threads;
    made.drop_duplicates = true;
    made.documents.metadata = {"id"};
    made.shard_tokens = 1 << 20;
    const CorpusBuildResult result = run(made);
    if (!first) first = result;
    EXPECT_EQ(result.manifest.digest, first->manifest.digest) << threads;
    EXPECT_EQ(result.duplicates, first->duplicates);
    EXPECT_GT(result.duplicates, 500u);
    expect_same_files("c1", fmt::format("c{}", threads));
  }
  EXPECT_TRUE(verify_corpus(directory_ / "c16", 5).empty());
}

TEST_F(CorpusPipeline, DuplicatesGoWhereverTheyStand) {
  const std::string far(300000, 'f'), large(6 << 20, 'x');
  std::vector<std::string> documents = some_documents(300, 3);
  documents.push_back(far);
  documents.insert(documents.begin(), far);
  documents.push_back(documents[5]);
  put_jsonl(directory_ / "a.jsonl", documents);
  put_jsonl(directory_ / "b.jsonl", {documents[7], "only here"});
  for (const char* name : {"large1.txt", "large2.txt"}) put(directory_ / name, large);
  put(directory_ / "large3.txt", large + "y");
  CorpusBuildOptions made = options("c", {directory_ / "a.jsonl", directory_ / "b.jsonl", directory_ / "large1.txt",
                                          directory_ / "large2.txt", directory_ / "large3.txt"});
  made.drop_duplicates = true;
  std::set<std::string> different(documents.begin(), documents.end());
  different.insert({"only here", large, large + "y"});
  const CorpusBuildResult result = run(made);
  EXPECT_EQ(result.manifest.train.documents() + result.manifest.validation.documents(), different.size());
  EXPECT_EQ(result.duplicates, documents.size() + 5 - different.size());
  EXPECT_TRUE(result.manifest.duplicates_dropped);
  made.out = directory_ / "all";
  made.drop_duplicates = false;
  EXPECT_EQ(run(made).duplicates, 0u);
}

TEST_F(CorpusPipeline, FewDocumentsOfWhichSomeAreDuplicates) {
  put_jsonl(directory_ / "a.jsonl", {std::string(1000, 'a'), std::string(1000, 'a'), std::string(1000, 'b')});
  CorpusBuildOptions made = options("c", {directory_ / "a.jsonl"});
  made.drop_duplicates = true;
  const CorpusBuildResult result = run(made);
  EXPECT_FALSE(result.split_by_document);
  EXPECT_EQ(text_of(made.out, Split::train), std::string(1000, 'a') + std::string(800, 'b'));
  EXPECT_EQ(text_of(made.out, Split::validation), std::string(200, 'b'));
}

TEST_F(CorpusPipeline, BadLinesAreNamedCountedAndLimited) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += i % 500 == 7 ? "{\"text\": 7}\n" : fmt::format("{{\"text\": \"document {}\"}}\n", i);
  put(directory_ / "a.jsonl", lines);
  for (const int threads : {1, 4}) {
    CorpusBuildOptions made = options(fmt::format("c{}", threads), {directory_ / "a.jsonl"});
    made.threads = threads;
    const Outcome none = outcome_of([&] { run(made); });
    EXPECT_EQ(none.code, ExitCode::bad_data);
    EXPECT_TRUE(none.says("a.jsonl:8: wanted the field \"text\" to be a string")) << none.message;
    made.skip_bad = 5;
    const Outcome five = outcome_of([&] { run(made); });
    EXPECT_EQ(five.code, ExitCode::bad_data);
    EXPECT_TRUE(five.says("a.jsonl:2508:") && five.says("--skip-bad 5")) << five.message;
    made.skip_bad = 6;
    const CorpusBuildResult six = run(made);
    EXPECT_EQ(six.bad_lines, 6u);
    ASSERT_EQ(six.first_bad_lines.size(), 6u);
    EXPECT_NE(six.first_bad_lines[1].find("a.jsonl:508:"), std::string::npos);
    EXPECT_EQ(six.manifest.train.documents() + six.manifest.validation.documents(), 2994u);
  }
}

TEST_F(CorpusPipeline, NestedFieldsAndMetadata) {
  std::string lines;
  std::map<std::string, std::string> wanted;
  for (int i = 0; i < 500; ++i) {
    lines += fmt::format("{{\"page\": {{\"body\": \"text {}\", \"url\": \"http://x/{}\\u20ac\"}}, \"n\": [{}, 1.5]}}\n",
                         i, i, i);
    wanted[fmt::format("text {}", i)] =
        fmt::format("{{\"page.url\": \"http://x/{}\xe2\x82\xac\", \"n\": [{},1.5E0], \"none\": null}}", i, i);
  }
  put(directory_ / "a.jsonl", lines);
  CorpusBuildOptions made = options("c", {directory_ / "a.jsonl"});
  made.documents.field = "page.body";
  made.documents.metadata = {"page.url", "n", "none"};
  made.shard_tokens = 1000;
  run(made);
  const auto corpus = Corpus::open(made.out);
  EXPECT_EQ(corpus->manifest().metadata_fields, made.documents.metadata);
  size_t seen = 0;
  for (const Split split : {Split::train, Split::validation})
    for (const ShardRecord& record : corpus->manifest().split(split).shards) {
      const CorpusShard shard(made.out, record, corpus->manifest());
      const std::vector<uint64_t> offsets = shard.read_document_offsets(), hashes = shard.read_document_hashes();
      std::vector<uint16_t> chunk(record.chunk_tokens);
      ASSERT_EQ(shard.chunks(), 1u);
      shard.read_chunk(0, chunk.data());
      std::string metadata = unpacked(made.out / metadata_name(record.file));
      for (size_t i = 0; i < record.documents; ++i, ++seen) {
        const std::string text(chunk.begin() + static_cast<long>(offsets[i]),
                               chunk.begin() + static_cast<long>(offsets[i + 1]) - 1);
        const size_t end = metadata.find('\n');
        EXPECT_EQ(metadata.substr(0, end), wanted[text]);
        EXPECT_EQ(hashes[i], xxh3_64(text));
        metadata.erase(0, end + 1);
      }
      EXPECT_EQ(metadata, "");
    }
  EXPECT_EQ(seen, 500u);
}

TEST_F(CorpusPipeline, DamagedMetadataIsFoundByVerify) {
  put_jsonl(directory_ / "a.jsonl", some_documents(300, 4));
  CorpusBuildOptions made = options("c", {directory_ / "a.jsonl"});
  made.documents.metadata = {"text"};
  run(made);
  ASSERT_TRUE(verify_corpus(made.out, 5).empty());
  const fs::path file = made.out / "train-00000.metadata.jsonl.zst";
  const std::string good = get(file);
  std::string flipped = good;
  flipped[good.size() / 2] ^= 1;
  for (const std::string& bad : {flipped, good.substr(1), good + "x", std::string(good.size(), '\0')}) {
    put(file, bad);
    const auto problems = verify_corpus(made.out, 5);
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_EQ(problems[0].code, ExitCode::bad_data);
    EXPECT_NE(problems[0].message.find("train-00000.metadata.jsonl.zst"), std::string::npos);
  }
  fs::remove(file);
  EXPECT_EQ(verify_corpus(made.out, 5).at(0).code, ExitCode::missing_input);
}

/// Bytes, but with cuts after a full stop only.
class StopTokenizer : public Tokenizer {
 public:
  std::string name() const override { return "stop"; }
  uint32_t vocabulary() const override { return bytes_.vocabulary(); }
  uint32_t end_of_document() const override { return bytes_.end_of_document(); }
  std::unique_ptr<TokenEncoder> encoder(const EncodeOptions& options) const override { return bytes_.encoder(options); }
  std::unique_ptr<TokenDecoder> decoder() const override { return bytes_.decoder(); }
  bool may_cut(std::string_view text, size_t at) const override { return at > 0 && text[at - 1] == '.'; }
  uint32_t text_bytes(uint32_t token) const override { return bytes_.text_bytes(token); }
  std::string token_name(uint32_t token) const override { return bytes_.token_name(token); }
  std::optional<uint32_t> find_token(std::string_view name) const override { return bytes_.find_token(name); }
  std::string description() const override { return bytes_.description(); }

 private:
  ByteTokenizer bytes_;
};

TEST_F(CorpusPipeline, LongDocumentsAreCutWhereTheTokenizerAllows) {
  std::string text = some_text(kWholeDocument + kWholeDocument / 2, 1);
  text[kWholeDocument / 4 - 2] = '.';  // too early for a cut
  text[kWholeDocument - 77] = '.';
  text += std::string(kLongestPiece, 'x') + some_text(50, 2);
  put(directory_ / "a.txt", text);
  put_jsonl(directory_ / "b.jsonl", {text});
  const StopTokenizer tokenizer;
  const CutRule may_cut = [&](std::string_view view, size_t at) { return tokenizer.may_cut(view, at); };
  const Cut first = place_of_cut(text, may_cut),
            second = place_of_cut(std::string_view(text).substr(first.at), may_cut);
  EXPECT_EQ(first.at, kWholeDocument - 76);
  EXPECT_FALSE(first.forced);
  EXPECT_EQ(second.at, kLongestPiece);
  EXPECT_TRUE(second.forced);
  for (const char* input : {"a.txt", "b.jsonl"}) {
    CorpusBuildOptions made = options(std::string("c-") + input, {directory_ / input});
    made.validation = 1e-6;
    const CorpusBuildResult result = build_corpus(made, tokenizer);
    EXPECT_EQ(text_of(made.out, Split::train) + text_of(made.out, Split::validation), text);
    EXPECT_EQ(result.forced_cuts, 1u) << input;
  }
}

TEST_F(CorpusPipeline, StandardInput) {
  put_jsonl(directory_ / "a.jsonl", some_documents(4000, 5));
  run(options("file", {directory_ / "a.jsonl"}));
  const auto from_pipe = [&](const std::string& out, const std::string& text, InputFormat format) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      for (size_t at = 0; at < text.size();) {
        const ssize_t part = write(ends[1], text.data() + at, std::min<size_t>(text.size() - at, 4000));
        if (part <= 0) _exit(1);
        at += static_cast<size_t>(part);
      }
      _exit(0);
    }
    close(ends[1]);
    const int before = dup(0);
    dup2(ends[0], 0);
    CorpusBuildOptions made = options(out, {"-"});
    made.documents.format = format;
    const Outcome outcome = outcome_of([&] { run(made); });
    dup2(before, 0);
    close(before);
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return outcome;
  };
  EXPECT_EQ(from_pipe("pipe", get(directory_ / "a.jsonl"), InputFormat::jsonl).message, "");
  expect_same_files("file", "pipe");
  EXPECT_EQ(from_pipe("text", some_text(100000, 3), InputFormat::text).message, "");
  const Outcome bad = from_pipe("bad", "{\"text\": \"a\"}\n{\n", InputFormat::jsonl);
  EXPECT_TRUE(bad.code == ExitCode::bad_data && bad.says("-:2:")) << bad.message;
  const Outcome large = from_pipe("large", some_text((64 << 20) + 1000, 3), InputFormat::text);
  EXPECT_TRUE(large.code == ExitCode::bad_data && large.says("--split-documents blank")) << large.message;
  EXPECT_EQ(outcome_of([&] { run(options("x", {"-"})); }).code, ExitCode::usage);
}

TEST_F(CorpusPipeline, MemoryDoesNotGrowWithTheInput) {
  // Documents, lines and one long text, all larger than everything that may be in flight.
  std::string line = "{\"text\": \"" + some_text(3000, 1) + "\"}\n";
  std::replace(line.begin(), line.end() - 1, '\n', ' ');
  const auto write = [&](const std::string& name, size_t bytes) {
    std::ofstream file(directory_ / name, std::ios::binary);
    for (size_t at = 0; at < bytes; at += line.size()) file << line;
  };
  write("1.jsonl", size_t{48} << 20);
  write("4.jsonl", size_t{192} << 20);
  fs::create_hard_link(directory_ / "4.jsonl", directory_ / "4.txt");
  const long one = peak_mib(directory_ / "c1", directory_ / "1.jsonl");
  const long four = peak_mib(directory_ / "c4", directory_ / "4.jsonl");
  const long text = peak_mib(directory_ / "t4", directory_ / "4.txt");
  const auto stated = static_cast<long>(build_memory(2) >> 20);
  EXPECT_GT(one, 10);
  EXPECT_LT(four, one + 48) << "1x took " << one << " MiB";  // of 144 MiB more of input
  EXPECT_LT(four, stated);
  EXPECT_LT(text, stated);
  RecordProperty("peak_mib", std::to_string(four));
}

TEST_F(CorpusPipeline, APairOfHashesATextInFewBytes) {
  TextSet set;
  std::set<std::pair<uint64_t, uint64_t>> reference;
  uint64_t state = 1;
  const auto next = [&] { return state = xxh3_64(&state, sizeof state); };
  for (int i = 0; i < 100000; ++i) {
    const bool crowded = next() % 3 == 0;
    const Digest128 key{crowded ? 42 : next() % 100000 * 0x9e3779b97f4a7c15, crowded ? next() % 500 : 7};
    EXPECT_EQ(set.insert(key), reference.insert({key.high, key.low}).second);
  }
  EXPECT_TRUE(set.insert({}));
  EXPECT_FALSE(set.insert({}));
  TextSet even;
  for (uint64_t i = 0; i < 700000; ++i) even.insert({next(), next()});
  EXPECT_EQ(even.size(), 700000u);
  EXPECT_LT(even.memory_bytes(), 24 * even.size());
}

}  // namespace
}  // namespace capstan
