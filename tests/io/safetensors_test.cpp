// label: cpu
// Safetensors: the layout other tools expect, and hostile files refused before anything is allocated by them.
#include "io/safetensors.h"

#include <sys/resource.h>

#include "tests/io/checkpoint_testing.h"

namespace capstan::testing {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  fs::path path() const { return directory_.path() / "model.safetensors"; }
  /// A file of this header (its length in front is right) and this many bytes of data.
  void write_raw(const std::string& header, size_t data_bytes) { write_raw(header.size(), header, data_bytes); }
  void write_raw(uint64_t length, const std::string& header, size_t data_bytes) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    write_file(path(), bytes + header + std::string(data_bytes, 'd'));
  }
  TemporaryDirectory directory_;
};

TEST_F(SafetensorsTest, RoundTripOfEveryDtype) {
  std::vector<SafetensorsEntry> entries;
  for (const DType dtype :
       {DType::f64, DType::i64, DType::f32, DType::i32, DType::u32, DType::bf16, DType::f16, DType::u16, DType::u8})
    entries.push_back({name_of(dtype), dtype, {3, 5}});
  entries.push_back({"scalar", DType::u8, {}});
  entries.push_back({"empty", DType::u8, {4, 0}});
  entries.push_back({"named \"so\" \\ \xc3\xa9\n", DType::u8, {1}});
  SafetensorsWriter writer(path(), entries, {{"format", "pt"}, {"a \"b\"", "c\nd"}});
  std::string data;
  for (const SafetensorsEntry& entry : writer.entries())
    for (uint64_t i = 0; i < entry.bytes; ++i) data += static_cast<char>(data.size() * 37);
  for (size_t at = 0; at < data.size(); at += 11)
    writer.write(data.data() + at, std::min<size_t>(11, data.size() - at));
  writer.finish();
  EXPECT_EQ(writer.file_digest(), digest128_of(read_file(path())));

  const SafetensorsFile file = SafetensorsFile::open(path());
  ASSERT_EQ(file.entries().size(), entries.size());
  EXPECT_EQ(file.metadata(), (SafetensorsMetadata{{"format", "pt"}, {"a \"b\"", "c\nd"}}));
  const uint64_t begin = fs::file_size(path()) - data.size();
  EXPECT_EQ(begin % 8, 0u);
  for (const SafetensorsEntry& wanted : entries) {
    const SafetensorsEntry* entry = file.find(wanted.name);
    ASSERT_TRUE(entry) << wanted.name;
    EXPECT_EQ(entry->dtype, wanted.dtype);
    EXPECT_EQ(entry->shape, wanted.shape);
    std::string got(entry->bytes, '\0');
    file.read(wanted.name, got.data(), 0, got.size());
    EXPECT_EQ(got, data.substr(entry->offset - begin, entry->bytes));
  }
  char pair[2];
  file.read("f32", pair, 58, 2);
  EXPECT_EQ(0, std::memcmp(pair, data.data() + file.find("f32")->offset - begin + 58, 2));
  expect_error(ExitCode::bad_data, {"'f32'", "60"}, [&] { file.read("f32", pair, 59, 2); });
  expect_error(ExitCode::bad_data, {"'f32'"}, [&] { file.read("f32", pair, UINT64_MAX, 2); });
  expect_error(ExitCode::bad_data, {"'f33'"}, [&] { file.read("f33", pair, 0, 2); });
}

TEST_F(SafetensorsTest, LayoutAsTheFormatSays) {
  SafetensorsWriter writer(path(), {{"a", DType::f32, {2}}, {"b", DType::bf16, {1, 3}}});
  writer.write("01234567abcdef", 14);
  writer.finish();
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,3],"data_offsets":[8,14]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  std::string wanted(8, '\0');
  wanted[0] = static_cast<char>(padded.size());
  EXPECT_EQ(read_file(path()), wanted + padded + "01234567abcdef");
}

TEST_F(SafetensorsTest, ReadsWhatOthersWrite) {  // any order of names, spaces, offsets before dtype
  write_raw(R"({ "b" : {"data_offsets" : [4, 6], "shape":[2], "dtype":"U8"}, "__metadata__":{"format":"np"},
                 "a":{"dtype":"F32","data_offsets":[0,4],"shape":[1]} }   )",
            6);
  const SafetensorsFile file = SafetensorsFile::open(path());
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_EQ(file.entries()[1].name, "b");
  write_raw("{}", 0);
  EXPECT_TRUE(SafetensorsFile::open(path()).entries().empty());
}

TEST_F(SafetensorsTest, WriterRefusesWhatNoReaderTakes) {
  const auto refused = [&](std::vector<SafetensorsEntry> entries) {
    expect_error(ExitCode::internal, {}, [&] { SafetensorsWriter(path(), std::move(entries)); });
  };
  refused({{"a", DType::f32, {2}}, {"a", DType::f32, {2}}});
  refused({{"", DType::f32, {2}}});
  refused({{"__metadata__", DType::f32, {2}}});
  refused({{std::string(2000, 'n'), DType::f32, {2}}});
  refused({{"a", std::nullopt, {2}}});
  refused({{"a", DType::f32, {-1}}});
  refused({{"a", DType::f32, {INT64_MAX, 2}}});
  SafetensorsWriter writer(path(), {{"a", DType::u8, {2}}});
  expect_error(ExitCode::internal, {"more than"}, [&] { writer.write("abc", 3); });
  expect_error(ExitCode::internal, {"wrote"}, [&] { writer.finish(); });
}

TEST_F(SafetensorsTest, MalformedHeadersAreRefused) {
  const std::string f32 = R"("dtype":"F32")";
  const auto tensor = [&](const std::string& fields) { return "{\"a\":{" + fields + "}}"; };
  const struct {
    std::string header, word;
    size_t data;
  } cases[] = {
      {" {}", "'{'", 0},
      {"[]", "'{'", 0},
      {"{\"a\"", "JSON", 0},
      {"{} {}", "more", 0},
      {"{}", "4 after the header", 4},
      {tensor(R"("shape":[1],"data_offsets":[0,4])"), "lacks dtype", 4},
      {tensor(f32 + R"(,"data_offsets":[0,4])"), "lacks shape", 4},
      {tensor(f32 + R"(,"shape":[1])"), "lacks two data_offsets", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0])"), "lacks two data_offsets", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,4,4])"), "more than two", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,4.0])"), "not a whole one", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,4e0])"), "not a whole one", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[-4,0])"), "negative", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":["0",4])"), "a string", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[4,0])"), "ascending", 4},
      {tensor(f32 + R"(,"shape":[2],"data_offsets":[0,8])"), "within the 4 bytes", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,18446744073709551616])"), "not a whole one", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[18446744073709551612,18446744073709551615])"), "within", 4},
      {tensor(f32 + R"(,"shape":[2],"data_offsets":[0,4])"), "8 bytes by its shape", 4},
      {tensor(f32 + R"(,"shape":[-1],"data_offsets":[0,4])"), "negative", 4},
      {tensor(f32 + R"(,"shape":[1.5],"data_offsets":[0,4])"), "not a whole one", 4},
      {tensor(f32 + R"(,"shape":[[1]],"data_offsets":[0,4])"), "an array", 4},
      {tensor(f32 + R"(,"shape":1,"data_offsets":[0,4])"), "a number", 4},
      {tensor(f32 + R"(,"shape":null,"data_offsets":[0,4])"), "null", 4},
      {tensor(f32 + R"(,"shape":[4294967296,4294967296],"data_offsets":[0,4])"), "overflows", 4},
      {tensor(f32 + R"(,"shape":[9223372036854775808],"data_offsets":[0,4])"), "dim of", 4},
      {tensor(f32 + R"(,"shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), "16 dims", 4},
      {tensor(R"("dtype":"F8_E4M3","shape":[5],"data_offsets":[0,4])"), "5 bytes by its shape", 4},
      {tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), "ends within a byte", 2},
      {tensor(R"("dtype":"F9","shape":[4],"data_offsets":[0,4])"), "'F9'", 4},
      {tensor(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), "'f32'", 4},
      {tensor(R"("dtype":3,"shape":[1],"data_offsets":[0,4])"), "a number", 4},
      {tensor(f32 + R"(,"dtype":"F32","shape":[1],"data_offsets":[0,4])"), "twice", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,4],"extra":{})"), "an object", 4},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,4],"extra":[])"), "an array", 4},
      {"{\"a\":{" + f32 + R"(,"shape":[1],"data_offsets":[0,4]},"a":{)" + f32 +
           R"(,"shape":[1],"data_offsets":[4,8]}})",
       "twice", 8},
      {"{\"a\":{" + f32 + R"(,"shape":[1],"data_offsets":[0,4]},"b":{)" + f32 +
           R"(,"shape":[1],"data_offsets":[0,4]}})",
       "overlap", 4},
      {"{\"a\":{" + f32 + R"(,"shape":[1],"data_offsets":[0,4]},"b":{)" + f32 +
           R"(,"shape":[1],"data_offsets":[5,9]}})",
       "hole", 9},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[1,5])"), "hole", 5},
      {tensor(f32 + R"(,"shape":[1],"data_offsets":[0,4])"), "5 after the header", 5},
      {"{\"\":{" + f32 + R"(,"shape":[1],"data_offsets":[0,4]}})", "without a name", 4},
      {"{\"" + std::string(3000, 'n') + "\":{" + f32 + R"(,"shape":[1],"data_offsets":[0,4]}})", "1024 bytes", 4},
      {"{\"a\":3}", "a number", 0},
      {"{\"a\":[]}", "an array", 0},
      {"{\"a\":\"x\"}", "a string", 0},
      {R"({"__metadata__":{"a":1}})", "a number", 0},
      {R"({"__metadata__":{"a":{"b":"c"}}})", "an object", 0},
      {R"({"__metadata__":"a"})", "a string", 0},
      {"{\"a\":" + std::string(50000, '['), "an array", 0},
      {"{\"a\":{\"shape\":" + std::string(50000, '['), "a", 0},
  };
  EXPECT_GE(std::size(cases), 25u);
  for (const auto& c : cases) {
    SCOPED_TRACE(c.header.substr(0, 120));
    write_raw(c.header, c.data);
    expect_error(ExitCode::bad_data, {"model.safetensors", c.word}, [&] { SafetensorsFile::open(path()); });
  }
}

TEST_F(SafetensorsTest, EveryTypeOfTheFormatIsKnownAlsoThoseThatNothingComputesWith) {
  const struct {
    const char* name;
    size_t bits;
    std::optional<DType> dtype;
  } types[] = {{"F64", 64, DType::f64},
               {"F32", 32, DType::f32},
               {"BF16", 16, DType::bf16},
               {"F16", 16, DType::f16},
               {"I64", 64, DType::i64},
               {"I32", 32, DType::i32},
               {"U32", 32, DType::u32},
               {"U16", 16, DType::u16},
               {"U8", 8, DType::u8},
               {"BOOL", 8, {}},
               {"I8", 8, {}},
               {"I16", 16, {}},
               {"U64", 64, {}},
               {"C64", 64, {}},
               {"F8_E4M3", 8, {}},
               {"F8_E5M2", 8, {}},
               {"F8_E8M0", 8, {}},
               {"F8_E4M3FNUZ", 8, {}},
               {"F8_E5M2FNUZ", 8, {}},
               {"F6_E2M3", 6, {}},
               {"F6_E3M2", 6, {}},
               {"F4", 4, {}}};
  for (const auto& type : types) {
    SCOPED_TRACE(type.name);
    const size_t bytes = 8 * type.bits / 8;
    write_raw(fmt::format(R"({{"a":{{"dtype":"{}","shape":[2,4],"data_offsets":[0,{}]}}}})", type.name, bytes), bytes);
    const SafetensorsFile file = SafetensorsFile::open(path());
    ASSERT_EQ(file.entries().size(), 1u);
    EXPECT_EQ(file.entries()[0].bytes, bytes);
    EXPECT_TRUE(file.entries()[0].dtype == type.dtype);
    EXPECT_EQ(file.entries()[0].type, type.name);
  }
}

TEST_F(SafetensorsTest, MetadataHasABound) {
  const auto members = [](size_t count) {
    std::string text = R"({"__metadata__":{)";
    for (size_t i = 0; i < count; ++i) text += fmt::format("{}\"{}\":\"x\"", i ? "," : "", i);
    return text + "}}";
  };
  write_raw(members(kMaxSafetensorsMetadata), 0);
  EXPECT_EQ(SafetensorsFile::open(path()).metadata().size(), kMaxSafetensorsMetadata);
  write_raw(members(kMaxSafetensorsMetadata + 1), 0);
  expect_error(ExitCode::bad_data, {"65536 members"}, [&] { SafetensorsFile::open(path()); });
}

TEST_F(SafetensorsTest, NamesAreMadeFitForATerminal) {
  write_raw(R"({"a\u001b[31m\nb\u0000c":{"dtype":"\u0007F32","shape":[1],"data_offsets":[0,4]}})", 4);
  expect_error(ExitCode::bad_data, {"'a?[31m?b?c'", "'?F32'"}, [&] { SafetensorsFile::open(path()); });
}

TEST_F(SafetensorsTest, WrongLengthsAreRefusedWithoutAllocating) {
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  for (const uint64_t length :
       {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 7}) {
    SCOPED_TRACE(length);
    write_raw(length, "{}", 0);
    expect_error(ExitCode::bad_data, {"header"}, [&] { SafetensorsFile::open(path()); });
  }
  write_raw(100'000'001, "{", 0);
  fs::resize_file(path(), 300'000'000);  // sparse: the file is long enough, the header over the cap
  expect_error(ExitCode::bad_data, {"100000001"}, [&] { SafetensorsFile::open(path()); });
  write_raw(90'000'000, "[", 0);  // within the cap, but it does not begin as a header does
  fs::resize_file(path(), 300'000'000);
  expect_error(ExitCode::bad_data, {"'{'"}, [&] { SafetensorsFile::open(path()); });
  for (const size_t bytes : {0, 1, 7, 8, 9}) {
    write_file(path(), std::string(bytes, '\2'));
    expect_error(ExitCode::bad_data, {"bytes"}, [&] { SafetensorsFile::open(path()); });
  }
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 32 * 1024) << "KiB";
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  SafetensorsWriter writer(path(), {{"a", DType::f32, {2}}, {"b", DType::bf16, {1, 3}}});
  writer.write("01234567abcdef", 14);
  writer.finish();
  const std::string good = read_file(path());
  for (size_t n = 0; n < good.size(); ++n) {
    write_file(path(), good.substr(0, n));
    EXPECT_THROW(SafetensorsFile::open(path()), Error) << n;
  }
}

TEST_F(SafetensorsTest, PathsAndMissingFiles) {
  expect_error(ExitCode::missing_input, {"model.safetensors"}, [&] { SafetensorsFile::open(path()); });
  write_raw("{}", 0);
  fs::create_directory(directory_.path() / "root");
  fs::create_symlink(path(), directory_.path() / "root" / "link");
  EXPECT_NO_THROW(SafetensorsFile::open(directory_.path() / "root" / "link"));  // the user's own link
  EXPECT_THROW(SafetensorsFile::open_beneath(directory_.path() / "root", "link"), Error);
  EXPECT_THROW(SafetensorsFile::open_beneath(directory_.path() / "root", "../model.safetensors"), Error);
  EXPECT_NO_THROW(SafetensorsFile::open_beneath(directory_.path(), "model.safetensors"));
  EXPECT_THROW(SafetensorsFile::open(directory_.path()), Error);
}

TEST_F(SafetensorsTest, AFileThatShrinksIsAnErrorNotASignal) {
  SafetensorsWriter writer(path(), {{"a", DType::u8, {5000}}});
  writer.write(std::string(5000, 'x').data(), 5000);
  writer.finish();
  const SafetensorsFile file = SafetensorsFile::open(path());
  fs::resize_file(path(), 1000);
  std::vector<char> room(5000);
  expect_error(ExitCode::bad_data, {"ends at"}, [&] { file.read("a", room.data(), 0, 5000); });
}

}  // namespace
}  // namespace capstan::testing
