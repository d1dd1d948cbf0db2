// label: cpu
// Inputs to documents: every format and compression, pieces that depend on the text alone, and bad inputs.
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "io/corpus/document_reader.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

std::vector<std::string> documents_of(const std::vector<fs::path>& inputs, const DocumentOptions& options = {},
                                      const CutRule& may_cut = {}) {
  DocumentReader reader(list_inputs(inputs, options).files, options, {.may_cut = may_cut});
  std::vector<std::string> documents;
  bool open = false;
  for (BlockDocument piece; reader.next(piece);) {
    EXPECT_EQ(piece.begins, !open);
    EXPECT_LE(piece.text.size(), kLongestLine);
    if (piece.begins) documents.emplace_back();
    documents.back() += piece.text;
    open = !piece.ends;
  }
  EXPECT_FALSE(open);
  return documents;
}

std::string gzip(const std::string& text) {
  std::string out(compressBound(text.size()) + 64, '\0');
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class Documents : public testing::Test {
 protected:
  fs::path file(const std::string& name, std::string_view text) {
    put(directory_ / name, text);
    return directory_ / name;
  }
  TemporaryDirectory directory_;
};

using Strings = std::vector<std::string>;

TEST_F(Documents, ATextFileIsOneDocument) {
  EXPECT_EQ(documents_of({file("a.txt", "one\n\ntwo\n")}), (Strings{"one\n\ntwo\n"}));
  EXPECT_EQ(documents_of({directory_ / "a.txt", file("b", "x")}), (Strings{"one\n\ntwo\n", "x"}));
}

TEST_F(Documents, BlankLinesSplitWhenAsked) {
  const DocumentOptions blank{.split = DocumentSplit::blank};
  EXPECT_EQ(documents_of({file("a", "\n\none\ntwo\n\n\n\nthree\r\n\r\nfour\n")}, blank),
            (Strings{"one\ntwo", "three", "four"}));
  EXPECT_EQ(documents_of({file("b", "\n\n\n"), file("c", "x")}, blank), (Strings{"x"}));
  EXPECT_EQ(documents_of({file("d", "x\n\n")}, blank), (Strings{"x"}));
}

TEST_F(Documents, LongDocumentsComeInPiecesAndStayWhole) {
  for (const size_t size : {kBlockBytes - 1, kBlockBytes, kBlockBytes + 1, kWholeDocument - 1, kWholeDocument,
                            kWholeDocument + 1, 3 * kWholeDocument + 12345}) {
    const std::string text = some_text(size, 5), words(size, 'w');
    EXPECT_EQ(documents_of({file("a", text)}), (Strings{text}));
    EXPECT_EQ(documents_of({file("a", words)}), (Strings{words}));
    EXPECT_EQ(documents_of({file("j.jsonl", "{\"text\":\"" + words + "\"}")}), (Strings{words}));
    const DocumentOptions blank{.split = DocumentSplit::blank};
    EXPECT_EQ(documents_of({file("a", words + "\n\n" + words + "\n")}, blank), (Strings{words, words}));
  }
}

TEST_F(Documents, ASeparatorAtThePieceBoundaryIsFound) {
  const DocumentOptions blank{.split = DocumentSplit::blank};
  for (size_t size = kWholeDocument - 4; size <= kWholeDocument + 4; ++size) {
    const std::string words(size, 'w');
    EXPECT_EQ(documents_of({file("a", words + "\n\nnext")}, blank), (Strings{words, "next"})) << size;
    EXPECT_EQ(documents_of({file("a", words + "\r\n\r\nnext")}, blank), (Strings{words, "next"})) << size;
    EXPECT_EQ(documents_of({file("a", words + "\n\n\n")}, blank), (Strings{words})) << size;
  }
}

TEST_F(Documents, PiecesDoNotCutCharacters) {
  std::string text = "x";
  while (text.size() < kWholeDocument + 100) text += "\xe2\x82\xac";
  DocumentReader reader(list_inputs({file("a", text)}).files, {});
  BlockDocument piece;
  ASSERT_TRUE(reader.next(piece));
  EXPECT_EQ((piece.text.size() - 1) % 3, 0u);
}

TEST_F(Documents, JsonLines) {
  const fs::path path =
      file("a.jsonl", "{\"text\": \"one\\n\\u20ac\", \"id\": 3}\n\n{\"text\":\"\"}\n{\"text\":\"two\"}");
  EXPECT_EQ(documents_of({path}), (Strings{"one\n\xe2\x82\xac", "two"}));
  const DocumentOptions body{.field = "body"};
  EXPECT_EQ(documents_of({file("b.ndjson", "{\"body\":\"b\"}\r\n")}, body), (Strings{"b"}));
}

TEST_F(Documents, BadJsonLinesAreNamedByFileAndLine) {
  const std::pair<const char*, const char*> cases[] = {{"{\"text\":\"a\"}\n{\"text\":", "JSON"},
                                                       {"{\"text\":\"a\"}\n[1]", "object"},
                                                       {"{\"text\":\"a\"}\n{\"body\":\"b\"}", "--field"},
                                                       {"{\"text\":\"a\"}\n{\"text\":4}", "string"},
                                                       {"{\"text\":\"a\"}\n{\"text\":\"\xff\"}", "JSON"}};
  for (const auto& [text, word] : cases) {
    const fs::path path = file("bad.jsonl", text);
    const Outcome outcome = outcome_of([&] { documents_of({path}); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << text;
    EXPECT_TRUE(outcome.says("bad.jsonl:2:")) << outcome.message;
    EXPECT_TRUE(outcome.says(word)) << outcome.message;
  }
}

TEST_F(Documents, CompressedInputs) {
  const std::string text = some_text(700000, 9), zeros(3000000, 'z');
  EXPECT_EQ(documents_of({file("a.txt.gz", gzip(text))}), (Strings{text}));
  EXPECT_EQ(documents_of({file("a.txt.zst", zstd(text))}), (Strings{text}));
  EXPECT_EQ(documents_of({file("z.gz", gzip(zeros)), file("z.zst", zstd(zeros))}), (Strings{zeros, zeros}));
  EXPECT_EQ(documents_of({file("two.gz", gzip("one ") + gzip("two"))}), (Strings{"one two"}));
  EXPECT_EQ(documents_of({file("two.zst", zstd("one ") + zstd("two"))}), (Strings{"one two"}));
  EXPECT_EQ(documents_of({file("a.jsonl.gz", gzip("{\"text\":\"x\"}\n"))}), (Strings{"x"}));
  EXPECT_EQ(documents_of({file("a.jsonl.zst", zstd("{\"text\":\"x\"}\n"))}), (Strings{"x"}));
}

TEST_F(Documents, DamagedCompressionIsAnError) {
  const std::string text = some_text(100000, 9);
  const auto expect_bad = [&](const std::string& name, const std::string& bytes) {
    const fs::path path = file(name, bytes);
    const Outcome outcome = outcome_of([&] { documents_of({path}); });
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << name << " of " << bytes.size();
    EXPECT_TRUE(outcome.says(name)) << outcome.message;
  };
  for (const auto& [name, packed] : {std::pair("a.gz", gzip(text)), std::pair("a.zst", zstd(text))}) {
    expect_bad(name, packed.substr(0, packed.size() / 2));
    expect_bad(name, packed.substr(0, packed.size() - 1));
    expect_bad(name, packed.substr(0, 5));
    expect_bad(name, packed + "garbage");
    expect_bad(name, "plain text");
  }
  std::string flipped = gzip(text);
  flipped[flipped.size() / 2] ^= 4;
  expect_bad("a.gz", flipped);
}

TEST_F(Documents, DirectoriesAreReadInOrderAndOnlyText) {
  fs::create_directories(directory_ / "d/sub");
  fs::create_directories(directory_ / "d/.git");
  put(directory_ / "d/b.txt", "b");
  put(directory_ / "d/a.txt", "a");
  put(directory_ / "d/sub/c", "c");
  put(directory_ / "d/empty", "");
  put(directory_ / "d/.hidden", "h");
  put(directory_ / "d/.git/config", "g");
  put(directory_ / "d/picture", std::string_view("\x89PNG\0\0", 6));
  EXPECT_EQ(documents_of({directory_ / "d"}), (Strings{"a", "b", "c"}));
  EXPECT_EQ(list_inputs({directory_ / "d"}).skipped.size(), 2u);
}

TEST_F(Documents, BadInputsHaveTheirCodes) {
  const auto code = [&](const fs::path& path) { return outcome_of([&] { list_inputs({path}); }); };
  EXPECT_EQ(code(directory_ / "none").code, ExitCode::missing_input);
  EXPECT_EQ(code(file("empty", "")).code, ExitCode::bad_data);
  EXPECT_EQ(code("/dev/null").code, ExitCode::bad_data);
  fs::create_directory(directory_ / "hollow");
  EXPECT_EQ(code(directory_ / "hollow").code, ExitCode::bad_data);
  EXPECT_TRUE(code(file("t.parquet", "PAR1....")).says("Parquet"));
  EXPECT_TRUE(code(file("t.txt", std::string("\x1f\x8b..."))).says(".gz"));
  EXPECT_EQ(outcome_of([] { list_inputs({}); }).code, ExitCode::usage);
}

}  // namespace
}  // namespace capstan
