// label: cpu
// Shards made by an enemy who also wrote the manifest: whatever HDF5 could be talked into (reading other files, links,
// huge chunks, filters, other types) is refused before anything is read.
#include <gtest/gtest.h>
#if __has_include(<hdf5.h>)
#include <hdf5.h>
#else
#include <hdf5/serial/hdf5.h>
#endif

#include "io/checkpoint_digest.h"
#include "io/corpus_digest.h"
#include "io/corpus_shard.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

constexpr uint64_t kTokens = 1000;

/// How the `tokens` dataset of a shard is made; the defaults are those of a good shard.
struct Recipe {
  hid_t type = H5T_STD_U16LE;
  std::vector<hsize_t> extent{kTokens};
  hsize_t chunk = kTokens;
  std::function<void(hid_t)> storage = {};       ///< changes the creation properties
  std::function<void(hid_t file)> instead = {};  ///< makes "tokens" itself
  std::function<void(hid_t file)> afterwards = {};
  uint16_t last_token = 256;
};

class CorpusHostile : public testing::Test {
 protected:
  CorpusHostile() {
    manifest_.tokenizer_name = "bytes";
    manifest_.tokenizer_hash = ByteTokenizer().hash();
    manifest_.vocabulary = 257;
    manifest_.end_of_document = 256;
  }

  static void attribute(hid_t file, const char* name, uint64_t value) {
    const hid_t space = H5Screate(H5S_SCALAR), id = H5Acreate2(file, name, H5T_STD_U64LE, space, 0, 0);
    H5Awrite(id, H5T_NATIVE_UINT64, &value);
    H5Aclose(id);
    H5Sclose(space);
  }
  static void table(hid_t file, const char* name, const std::vector<uint64_t>& values) {
    const hsize_t count = values.size();
    const hid_t space = H5Screate_simple(1, &count, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(creation, 1, &count);
    const hid_t id = H5Dcreate2(file, name, H5T_STD_U64LE, space, 0, creation, 0);
    H5Dwrite(id, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    H5Dclose(id);
    H5Pclose(creation);
    H5Sclose(space);
  }

  void make(const Recipe& recipe) {
    std::vector<uint16_t> tokens(kTokens, 'x');
    tokens.back() = recipe.last_token;
    const std::vector<uint64_t> offsets{0, kTokens}, hashes{xxh3_64(tokens.data(), 2 * kTokens)};
    const fs::path path = directory_ / "shard.h5";
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    for (const auto& [name, value] : {std::pair("format_version", uint64_t{1}), std::pair("vocabulary", uint64_t{257}),
                                      std::pair("token_count", kTokens), std::pair("document_count", uint64_t{1}),
                                      std::pair("byte_count", kTokens - 1)})
      attribute(file, name, value);
    const hid_t text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR);
    H5Tset_size(text, 32);
    H5Tset_strpad(text, H5T_STR_NULLPAD);
    const hid_t hash = H5Acreate2(file, "tokenizer_hash", text, scalar, 0, 0);
    H5Awrite(hash, text, manifest_.tokenizer_hash.data());
    H5Aclose(hash);
    table(file, "document_offsets", offsets);
    table(file, "chunk_hashes", hashes);
    if (recipe.instead) {
      recipe.instead(file);
    } else {
      const hid_t space = H5Screate_simple(static_cast<int>(recipe.extent.size()), recipe.extent.data(), nullptr);
      const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
      const std::vector<hsize_t> chunk(recipe.extent.size(), recipe.chunk);
      if (recipe.chunk) H5Pset_chunk(creation, static_cast<int>(chunk.size()), chunk.data());
      if (recipe.storage) recipe.storage(creation);
      const hid_t id = H5Dcreate2(file, "tokens", recipe.type, space, 0, creation, 0);
      ASSERT_GE(id, 0);
      H5Dwrite(id, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens.data());
      H5Dclose(id);
    }
    if (recipe.afterwards) recipe.afterwards(file);
    H5Fclose(file);
    record_ = {"shard.h5",
               kTokens,
               1,
               kTokens - 1,
               kTokens,
               fs::file_size(path),
               digest128_of(hashes.data(), 8).hex(),
               digest128_of(offsets.data(), 16).hex()};
  }

  Outcome read() const {
    return outcome_of([&] {
      const CorpusShard shard(directory_.path(), record_, manifest_);
      std::vector<uint16_t> tokens(kTokens);
      shard.read_chunk(0, tokens.data());
      static_cast<void>(shard.read_document_offsets());
    });
  }
  void expect_refused(const Recipe& recipe, const std::string& word) {
    make(recipe);
    const Outcome outcome = read();
    EXPECT_EQ(outcome.code, ExitCode::bad_data) << word;
    EXPECT_TRUE(outcome.says(word) && outcome.says("shard.h5")) << outcome.message;
  }

  TemporaryDirectory directory_;
  CorpusManifest manifest_;
  ShardRecord record_;
};

TEST_F(CorpusHostile, TheRecipeItselfIsGood) {
  make({});
  EXPECT_EQ(read().code, ExitCode::done) << read().message;
}

TEST_F(CorpusHostile, DataInOtherFiles) {
  put(directory_ / "other", std::string(2 * kTokens, 'x'));
  const std::string other = directory_ / "other";
  expect_refused({.chunk = 0, .storage = [&](hid_t p) { H5Pset_external(p, other.c_str(), 0, 2 * kTokens); }},
                 "chunked");
}

TEST_F(CorpusHostile, Links) {
  make({});
  fs::copy_file(directory_ / "shard.h5", directory_ / "target.h5");
  expect_refused({.instead = [&](hid_t file) { H5Lcreate_external("target.h5", "/tokens", file, "tokens", 0, 0); }},
                 "link");
  expect_refused({.instead = [&](hid_t file) { H5Lcreate_soft("/chunk_hashes", file, "tokens", 0, 0); }}, "link");
  expect_refused({.instead = [](hid_t) {}}, "not there");
  expect_refused({.instead = [](hid_t file) { H5Gclose(H5Gcreate2(file, "tokens", 0, 0, 0)); }}, "cannot be opened");
}

TEST_F(CorpusHostile, OtherLayouts) {
  expect_refused({.chunk = 0}, "chunked");
  expect_refused({.chunk = 0, .storage = [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); }}, "chunked");
  expect_refused({.chunk = 0,
                  .storage =
                      [](hid_t p) {
                        const hsize_t count = kTokens;
                        const hid_t space = H5Screate_simple(1, &count, nullptr);
                        H5Pset_virtual(p, space, "other.h5", "/tokens", space);
                      }},
                 "chunked");
  expect_refused({.storage = [](hid_t p) { H5Pset_deflate(p, 9); }}, "filters");
  expect_refused({.storage = [](hid_t p) { H5Pset_fletcher32(p); }}, "filters");
  expect_refused({.chunk = kTokens / 2}, "chunks of");
}

TEST_F(CorpusHostile, HugeChunksAndExtents) {
  const hsize_t huge = uint64_t{1} << 20;
  const auto sparse = [&](hsize_t extent, hsize_t chunk) {
    return [extent, chunk](hid_t file) {
      const hid_t space = H5Screate_simple(1, &extent, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
      H5Pset_chunk(creation, 1, &chunk);
      H5Dclose(H5Dcreate2(file, "tokens", H5T_STD_U16LE, space, 0, creation, 0));
    };
  };
  expect_refused({.instead = sparse(huge, huge)}, "chunks of at most");
  expect_refused({.instead = sparse(uint64_t{1} << 50, 1000)}, "wanted one dim of 1000");
  make({.instead = sparse(uint64_t{1} << 50, 1000)});
  record_.tokens = uint64_t{1} << 50;  // the manifest agrees with the lie, an attribute too
  EXPECT_EQ(read().code, ExitCode::bad_data);
}

TEST_F(CorpusHostile, OtherTypesAndShapes) {
  for (const hid_t type : {H5T_STD_U16BE, H5T_STD_I16LE, H5T_STD_U32LE, H5T_STD_U8LE, H5T_IEEE_F32LE})
    expect_refused({.type = type}, "type");
  expect_refused({.extent = {kTokens / 2}, .chunk = kTokens / 2}, "wanted one dim");
  expect_refused({.extent = {10, 100}, .chunk = 10}, "chunk");
}

TEST_F(CorpusHostile, TokensBeyondTheVocabulary) { expect_refused({.last_token = 257}, "token 999 has id 257"); }

TEST_F(CorpusHostile, Attributes) {
  const auto replace = [](const char* name, uint64_t value) {
    return [=](hid_t file) {
      H5Adelete(file, name);
      attribute(file, name, value);
    };
  };
  for (const char* name : {"format_version", "vocabulary", "token_count", "document_count", "byte_count"})
    expect_refused({.afterwards = replace(name, 77)}, name);
  expect_refused({.afterwards = [](hid_t file) { H5Adelete(file, "tokenizer_hash"); }}, "tokenizer_hash");
  expect_refused({.afterwards =
                      [&](hid_t file) {
                        H5Adelete(file, "tokenizer_hash");
                        attribute(file, "tokenizer_hash", 1);
                      }},
                 "tokenizer_hash");
}

TEST_F(CorpusHostile, NotHdf5AtAll) {
  make({});
  put(directory_ / "shard.h5", std::string(record_.file_size, 'x'));
  EXPECT_EQ(read().code, ExitCode::bad_data);
}

}  // namespace
}  // namespace capstan
