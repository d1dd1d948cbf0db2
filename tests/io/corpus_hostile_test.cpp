// label: cpu
// Shards made by an enemy who also wrote the manifest: whatever HDF5 could be talked into (reading other files, links,
// huge chunks, filters, other types) is refused before anything is read.
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <random>

#if __has_include(<hdf5.h>)
#include <hdf5.h>
#else
#include <hdf5/serial/hdf5.h>
#endif

#include "io/checkpoint/digest.h"
#include "io/corpus/digest.h"
#include "io/corpus/shard.h"
#include "io/hdf5_handle.h"
#include "tests/io/corpus_testing.h"

namespace capstan {
namespace {
using namespace testing_corpus;

constexpr uint64_t kTokens = 1000;

// HDF5 reads the variable when it starts, before any test does.
constexpr const char* kPlugInPath = "/tmp/capstan_corpus_hostile_plugins";
[[maybe_unused]] const bool kPlugInPathIsSet = setenv("HDF5_PLUGIN_PATH", kPlugInPath, 1) == 0;

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
    const std::vector<uint64_t> offsets{0, kTokens}, hashes{xxh3_64(tokens.data(), 2 * kTokens)}, documents{7};
    const fs::path path = directory_ / "shard.h5";
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    for (const auto& [name, value] : {std::pair("format_version", kCorpusFormatVersion),
                                      std::pair("vocabulary", uint64_t{257}), std::pair("token_count", kTokens),
                                      std::pair("document_count", uint64_t{1}), std::pair("byte_count", kTokens - 1)})
      attribute(file, name, value);
    const hid_t text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR);
    H5Tset_size(text, 32);
    H5Tset_strpad(text, H5T_STR_NULLPAD);
    const hid_t hash = H5Acreate2(file, "tokenizer_hash", text, scalar, 0, 0);
    H5Awrite(hash, text, manifest_.tokenizer_hash.data());
    H5Aclose(hash);
    table(file, "document_offsets", offsets);
    table(file, "chunk_hashes", hashes);
    table(file, "document_hashes", documents);
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
               digest128_of(hashes.data(), 8),
               digest128_of(offsets.data(), 16),
               digest128_of(documents.data(), 8)};
  }

  Outcome read() const {
    return outcome_of([&] {
      const CorpusShard shard(directory_.path(), record_, manifest_);
      std::vector<uint16_t> tokens(kTokens);
      shard.read_chunk(0, tokens.data());
      static_cast<void>(shard.read_document_offsets());
      static_cast<void>(shard.read_document_hashes());
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
  expect_refused({.storage = [](hid_t p) { H5Pset_shuffle(p); }}, "filters");
  expect_refused({.storage = [](hid_t p) { H5Pset_nbit(p); }}, "filters");
  expect_refused({.storage = [](hid_t p) { H5Pset_scaleoffset(p, H5Z_SO_INT, 0); }}, "filters");
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
  // What has the size of a token and is none.
  const hid_t compound = H5Tcreate(H5T_COMPOUND, 2), list = H5Tenum_create(H5T_STD_U16LE),
              opaque = H5Tcreate(H5T_OPAQUE, 2);
  const hsize_t two = 2;
  H5Tinsert(compound, "a", 0, H5T_STD_U16LE);
  const uint16_t value = 1;
  H5Tenum_insert(list, "a", &value);
  for (const hid_t type : {compound, list, opaque, H5Tarray_create2(H5T_STD_U8LE, 1, &two),
                           H5Tvlen_create(H5T_STD_U16LE), hid_t{H5T_STD_B16LE}, hid_t{H5T_STD_REF_OBJ}})
    expect_refused({.instead =
                        [&](hid_t file) {
                          const hsize_t extent = kTokens;
                          const hid_t space = H5Screate_simple(1, &extent, nullptr),
                                      creation = H5Pcreate(H5P_DATASET_CREATE);
                          H5Pset_chunk(creation, 1, &extent);
                          H5Dclose(H5Dcreate2(file, "tokens", type, space, 0, creation, 0));
                        }},
                   "type");
  expect_refused({.instead =
                      [&](hid_t file) {  // a named type where a dataset should be
                        const hid_t named = H5Tcopy(H5T_STD_U16LE);
                        H5Tcommit2(file, "tokens", named, 0, 0, 0);
                        H5Tclose(named);
                      }},
                 "cannot be opened");
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

/// Sees every opening of a file, by whomever.
class OpenWatch {
 public:
  explicit OpenWatch(const fs::path& file) : queue_(inotify_init1(IN_NONBLOCK)) {
    EXPECT_GE(inotify_add_watch(queue_, file.c_str(), IN_OPEN | IN_ACCESS), 0);
  }
  ~OpenWatch() { close(queue_); }
  size_t events() const {
    char buffer[4096];
    size_t count = 0;
    while (::read(queue_, buffer, sizeof buffer) > 0) ++count;
    return count;
  }

 private:
  int queue_;
};

TEST_F(CorpusHostile, NoTableOfAShardLeadsElsewhere) {
  make({});
  const fs::path outside = directory_ / "outside.h5";
  fs::copy_file(directory_ / "shard.h5", outside);
  const std::string target = outside.string();
  OpenWatch watch(outside);
  static_cast<void>(get(outside));
  ASSERT_GT(watch.events(), 0u) << "the watch itself does not work";
  // What takes the place of a dataset: storage in another file, or a way to one.
  const std::pair<const char*, std::function<void(hid_t, const char*)>> tricks[] = {
      {"external link",
       [&](hid_t file, const char* name) { H5Lcreate_external(target.c_str(), name, file, name, 0, 0); }},
      {"soft link to an external one",
       [&](hid_t file, const char* name) {
         H5Lcreate_external(target.c_str(), name, file, "way", 0, 0);
         H5Lcreate_soft("/way", file, name, 0, 0);
       }},
      {"soft link through an external group",
       [&](hid_t file, const char* name) {
         H5Lcreate_external(target.c_str(), "/", file, "way", 0, 0);
         H5Lcreate_soft((std::string("/way/") + name).c_str(), file, name, 0, 0);
       }},
      {"storage",
       [&](hid_t file, const char* name) {
         const hsize_t count = 2;
         const hid_t space = H5Screate_simple(1, &count, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
         H5Pset_external(creation, target.c_str(), 0, 1 << 20);
         H5Dclose(H5Dcreate2(file, name, H5T_STD_U64LE, space, 0, creation, 0));
       }},
      {"virtual dataset", [&](hid_t file, const char* name) {
         const hsize_t count = 2;
         const hid_t space = H5Screate_simple(1, &count, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
         H5Pset_virtual(creation, space, target.c_str(), name, space);
         H5Dclose(H5Dcreate2(file, name, H5T_STD_U64LE, space, 0, creation, 0));
       }}};
  for (const char* name : {"tokens", "chunk_hashes", "document_offsets", "document_hashes"})
    for (const auto& [trick, play] : tricks) {
      SCOPED_TRACE(fmt::format("{} as {}", name, trick));
      expect_refused({.afterwards =
                          [&](hid_t file) {
                            H5Ldelete(file, name, H5P_DEFAULT);
                            play(file, name);
                          }},
                     name);
      EXPECT_EQ(watch.events(), 0u);
    }
}

TEST_F(CorpusHostile, PlugInsAreNotLoaded) {
  // H5PL looks into this directory for any filter it does not know; see kPlugInPath.
  const fs::path library = fs::path(kPlugInPath) / "libfilter.so";
  fs::create_directories(kPlugInPath);
  put(library, "no library");
  const Hdf5Session session;  // from the first one on plug-ins are off; the test's own calls below must not load any
  OpenWatch watch(library);
  for (const char* name : {"tokens", "chunk_hashes"})
    expect_refused({.afterwards =
                        [&](hid_t file) {
                          H5Ldelete(file, name, H5P_DEFAULT);
                          const hsize_t count = 2;
                          const hid_t space = H5Screate_simple(1, &count, nullptr);
                          const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
                          H5Pset_chunk(creation, 1, &count);
                          H5Pset_filter(creation, 32015, H5Z_FLAG_OPTIONAL, 0, nullptr);
                          H5Dclose(H5Dcreate2(file, name, H5T_STD_U64LE, space, 0, creation, 0));
                        }},
                   name);
  EXPECT_EQ(watch.events(), 0u);
  fs::remove_all(kPlugInPath);
}

/// Reads the shard in a child that may take 128 MiB more than it has: its exit code is the Error's.
int read_with_little_memory(const std::function<Outcome()>& read) {
  const pid_t child = fork();
  if (child == 0) {
    std::ifstream statm("/proc/self/statm");
    uint64_t pages = 0;
    statm >> pages;
    const rlim_t most = pages * static_cast<uint64_t>(getpagesize()) + (uint64_t{128} << 20);
    const rlimit limit{most, most};
    setrlimit(RLIMIT_AS, &limit);
    int code = 1;
    try {
      code = static_cast<int>(read().code);
    } catch (...) {
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F(CorpusHostile, BombsTakeNoMemory) {
  const auto instead = [](const char* name, hsize_t extent, hsize_t chunk, bool deflate, hid_t type) {
    return [=](hid_t file) {
      H5Ldelete(file, name, H5P_DEFAULT);
      const hid_t space = H5Screate_simple(1, &extent, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
      H5Pset_chunk(creation, 1, &chunk);
      if (deflate) H5Pset_deflate(creation, 9);
      const hid_t id = H5Dcreate2(file, name, type, space, 0, creation, 0);
      const std::vector<char> zeros(deflate ? chunk * H5Tget_size(type) : 0);
      if (deflate) H5Dwrite_chunk(id, H5P_DEFAULT, 0, std::array<hsize_t, 1>{0}.data(), 100, zeros.data());
      H5Dclose(id);
    };
  };
  const hid_t large = H5Tcreate(H5T_OPAQUE, size_t{1} << 31), text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  const hsize_t huge = uint64_t{1} << 28, endless = uint64_t{1} << 50;
  for (const char* name : {"tokens", "chunk_hashes", "document_offsets", "document_hashes"})
    for (const Recipe& recipe : {Recipe{.afterwards = instead(name, huge, huge / 2, true, H5T_STD_U16LE)},
                                 Recipe{.afterwards = instead(name, endless, huge, false, H5T_STD_U64LE)},
                                 Recipe{.afterwards = instead(name, endless, 1000, false, H5T_STD_U64LE)},
                                 Recipe{.afterwards = instead(name, kTokens, 1, false, large)},
                                 Recipe{.afterwards = instead(name, kTokens, kTokens, false, text)}}) {
      make(recipe);
      EXPECT_EQ(read_with_little_memory([&] { return read(); }), 65) << name;
      EXPECT_TRUE(read().says(name)) << read().message;
    }
  // The manifest may agree with the lie: what does not fit the file is refused all the same.
  for (uint64_t ShardRecord::*count : {&ShardRecord::tokens, &ShardRecord::documents}) {
    make({});
    record_.*count = endless;
    EXPECT_EQ(read_with_little_memory([&] { return read(); }), 65);
  }
}

TEST_F(CorpusHostile, AttributesOfOtherShapes) {
  const auto attribute_of = [](const char* name, hid_t type, hsize_t count) {
    return [=](hid_t file) {
      H5Adelete(file, name);
      const hid_t space = H5Screate_simple(1, &count, nullptr);
      const std::vector<char> value(count * H5Tget_size(type) + 64, '\1');
      const hid_t id = H5Acreate2(file, name, type, space, 0, 0);
      H5Awrite(id, type, value.data());
      H5Aclose(id);
    };
  };
  const hid_t compound = H5Tcreate(H5T_COMPOUND, 8), words = H5Tcopy(H5T_C_S1);
  H5Tinsert(compound, "a", 0, H5T_STD_U64LE);
  H5Tset_size(words, 32);
  for (const char* name : {"format_version", "vocabulary", "token_count", "document_count", "byte_count"})
    for (const auto& [type, count] : {std::pair<hid_t, hsize_t>{H5T_STD_U64LE, 2},
                                      {H5T_STD_U64LE, 8000},
                                      {H5T_STD_U32LE, 1},
                                      {H5T_IEEE_F64LE, 1},
                                      {compound, 1},
                                      {words, 1}})
      expect_refused({.afterwards = attribute_of(name, type, count)}, name);
  for (const auto& [type, count] : {std::pair<hid_t, hsize_t>{words, 2}, {H5T_STD_U64LE, 4}})
    expect_refused({.afterwards = attribute_of("tokenizer_hash", type, count)}, "tokenizer_hash");
}

TEST_F(CorpusHostile, AnyBytesAtAllTakeNoMemory) {
  make({});
  const std::string good = get(directory_ / "shard.h5");
  std::mt19937 random(4);
  for (int i = 0; i < 150; ++i) {
    std::string bad = good;
    const size_t at = random() % std::min<size_t>(good.size(), 6000);
    for (size_t k = 0; k < 1 + random() % 8 && at + k < bad.size(); ++k)
      bad[at + k] = static_cast<char>(random() % 3 ? random() : 0xff);
    put(directory_ / "shard.h5", bad);
    const int code = read_with_little_memory([&] { return read(); });
    EXPECT_TRUE(code == 0 || code == 65) << "edit " << i << " at byte " << at << ": " << code;
  }
}

TEST_F(CorpusHostile, NotHdf5AtAll) {
  make({});
  put(directory_ / "shard.h5", std::string(record_.file_size, 'x'));
  EXPECT_EQ(read().code, ExitCode::bad_data);
}

}  // namespace
}  // namespace capstan
