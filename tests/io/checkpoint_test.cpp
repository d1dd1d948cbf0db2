// label: cpu
// Checkpoints of one rank: round trip, partial reads, every kind of damage, pruning.
#include "io/checkpoint/checkpoint.h"

#include "io/checkpoint/prune.h"
#include "io/safetensors.h"
#include "tests/io/checkpoint_testing.h"

namespace capstan::testing {
namespace {

class CheckpointTest : public ::testing::Test {
 protected:
  fs::path root() const { return directory_.path() / "checkpoints"; }
  fs::path step(uint64_t n) const { return root() / checkpoint_name(n); }
  fs::path data(uint64_t n) const { return step(n) / "rank-00000.safetensors"; }
  TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, RoundTrip) {
  const SaveResult result = save_alone(root(), 20);
  EXPECT_EQ(result.path, step(20));
  EXPECT_FALSE(result.was_there);
  EXPECT_TRUE(result.warnings.empty());
  EXPECT_EQ(result.bytes, fs::file_size(data(20)));
  Checkpoint checkpoint = Checkpoint::open(step(20));
  EXPECT_EQ(checkpoint.step(), 20u);
  expect_whole(checkpoint);
  checkpoint.verify();
  EXPECT_EQ(read_file(root() / "latest"), "step-20\n");
  EXPECT_FALSE(fs::exists(step(20).string() + ".partial"));
}

TEST_F(CheckpointTest, WholeTensorsAreOrdinarySafetensors) {
  save_alone(root(), 20);
  const SafetensorsFile file = SafetensorsFile::open(data(20));
  const State state = make_state(20);
  for (const auto& [name, entry] : state) {
    if (entry.bytes.empty()) continue;
    ASSERT_TRUE(file.find(name)) << name;
    EXPECT_EQ(file.find(name)->shape, entry.tensor.shape);
    EXPECT_EQ(file.find(name)->offset % bytes_of(entry.tensor.dtype), 0u) << name << " is not aligned";
    std::vector<char> got(entry.bytes.size());
    file.read(name, got.data(), 0, got.size());
    EXPECT_EQ(got, entry.bytes);
  }
}

TEST_F(CheckpointTest, ReadsAnyStretchAndAnyShard) {
  save_alone(root(), 20);
  const State state = make_state(20);
  const StateTensor& entry = state.at("embedding");
  Checkpoint checkpoint = Checkpoint::open(step(20));
  for (uint64_t first = 0; first < 140; first += 13)
    for (uint64_t count = 0; first + count <= 140; count += 17) {
      std::vector<char> got(count * 4 + 1);
      checkpoint.read("embedding", first, count, got.data());
      EXPECT_EQ(0, std::memcmp(got.data(), entry.bytes.data() + first * 4, count * 4)) << first << "+" << count;
    }
  const Runs runs = runs_of_shard({7, 5, 4}, 1, 1, 3);
  std::vector<char> got(runs.elements() * 4);
  checkpoint.read("embedding", runs, got.data());
  for (uint64_t row = 0; row < 7; ++row)
    EXPECT_EQ(0, std::memcmp(got.data() + row * 32, entry.bytes.data() + (row * 20 + 4) * 4, 32)) << row;
  std::vector<char> room(4096);
  expect_error(ExitCode::bad_data, {"'embedding'", "140"}, [&] { checkpoint.read("embedding", 139, 2, room.data()); });
  expect_error(ExitCode::bad_data, {"'embedding'"}, [&] { checkpoint.read("embedding", UINT64_MAX, 2, room.data()); });
  expect_error(ExitCode::bad_data, {"'no such'"}, [&] { checkpoint.read("no such", 0, 1, room.data()); });
}

TEST_F(CheckpointTest, MergedAgainIsTheSameBytes) {
  save_alone(root(), 20);
  Checkpoint checkpoint = Checkpoint::open(step(20));
  merge_checkpoint(checkpoint, directory_.path() / "merged");
  EXPECT_EQ(tree_of(step(20)), tree_of(directory_.path() / "merged" / "step-20"));
}

TEST_F(CheckpointTest, OrderOfTensorsAndSlicesDoesNotMatter) {
  save_alone(root(), 20);
  const State state = make_state(20);
  std::vector<std::vector<char>> kept;
  LoneGroup alone;
  std::vector<LogicalTensor> tensors = tensors_of(state);
  std::vector<Slice> slices = slices_of(state, Cut::whole, 0, 1, kept);
  std::reverse(tensors.begin(), tensors.end());
  std::reverse(slices.begin(), slices.end());
  save_checkpoint(directory_.path() / "other", 20, tensors, slices, state_json(20), alone, 2);
  EXPECT_EQ(tree_of(step(20)), tree_of(directory_.path() / "other" / "step-20"));
}

TEST_F(CheckpointTest, LargeSliceIsStreamedInBlocks) {
  std::vector<float> values(3'000'001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  LoneGroup alone;
  save_checkpoint(root(), 1, {{"w", DType::f32, {3'000'001}}}, {{"w", 0, values.size(), values.data()}}, "{}", alone,
                  2);
  Checkpoint checkpoint = Checkpoint::open(step(1));
  checkpoint.verify();
  std::vector<float> got(values.size());
  checkpoint.read("w", 0, got.size(), got.data());
  EXPECT_EQ(got, values);
  Checkpoint again = Checkpoint::open(step(1));  // a part first: the slice is hashed block by block
  again.read("w", 2'999'999, 2, got.data());
  EXPECT_EQ(got[1], 3'000'000.0f);
  merge_checkpoint(again, directory_.path() / "merged");
  EXPECT_EQ(tree_of(step(1)), tree_of(directory_.path() / "merged" / "step-1"));
}

TEST_F(CheckpointTest, EveryFlippedByteIsFound) {
  save_alone(root(), 20);
  for (const fs::path& path : {data(20), step(20) / "manifest.json"}) {
    const std::string good = read_file(path);
    for (size_t at = 0; at < good.size(); at += 7) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << at % 8));
      write_file(path, bad);
      EXPECT_THROW(Checkpoint::open(step(20)).verify(), Error) << path << " byte " << at;
    }
    write_file(path, good);
  }
  Checkpoint::open(step(20)).verify();
}

TEST_F(CheckpointTest, DamageIsFoundByReadWithoutVerify) {
  save_alone(root(), 20);
  const SafetensorsFile file = SafetensorsFile::open(data(20));
  flip_byte(data(20), file.find("embedding")->offset + 555);
  for (const uint64_t first : {0, 1}) {  // the whole slice, and a part far from the damage
    Checkpoint checkpoint = Checkpoint::open(step(20));
    std::vector<char> room(140 * 4);
    expect_error(ExitCode::bad_data, {"embedding", "rank-00000.safetensors", "damaged"},
                 [&] { checkpoint.read("embedding", first, first ? 2 : 140, room.data()); });
    checkpoint.read("counts", 0, 3, room.data());  // its neighbours are still good
  }
}

TEST_F(CheckpointTest, DamagedOnesArePassedOver) {
  const auto damage = [&](const std::string& kind) {
    if (kind == "flipped data") flip_byte(data(40), fs::file_size(data(40)) - 3);
    if (kind == "flipped manifest") flip_byte(step(40) / "manifest.json", 30);
    if (kind == "truncated data") fs::resize_file(data(40), fs::file_size(data(40)) - 1);
    if (kind == "longer data") write_file(data(40), read_file(data(40)) + "x");
    if (kind == "empty data") fs::resize_file(data(40), 0);
    if (kind == "truncated manifest") fs::resize_file(step(40) / "manifest.json", 200);
    if (kind == "empty manifest") fs::resize_file(step(40) / "manifest.json", 0);
    if (kind == "no manifest") fs::remove(step(40) / "manifest.json");
    if (kind == "no data") fs::remove(data(40));
    if (kind == "data is a link") {
      fs::rename(data(40), directory_.path() / "elsewhere");
      fs::create_symlink(directory_.path() / "elsewhere", data(40));
    }
    if (kind == "data is a directory") {
      fs::remove(data(40));
      fs::create_directory(data(40));
    }
    if (kind == "manifest of another step") {
      fs::remove_all(step(40));
      fs::copy(step(20), step(40), fs::copy_options::recursive);
    }
  };
  for (const std::string kind : {"flipped data", "flipped manifest", "truncated data", "longer data", "empty data",
                                 "truncated manifest", "empty manifest", "no manifest", "no data", "data is a link",
                                 "data is a directory", "manifest of another step"}) {
    SCOPED_TRACE(kind);
    fs::remove_all(root());
    save_alone(root(), 20);
    save_alone(root(), 40);
    damage(kind);
    std::vector<std::string> complaints;
    auto checkpoint = open_newest_good(root(), complaints);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ(checkpoint->step(), 20u);
    expect_whole(*checkpoint);
    ASSERT_EQ(complaints.size(), 1u);
    EXPECT_TRUE(complaints[0].starts_with("checkpoint step-40 is damaged (")) << complaints[0];
    EXPECT_TRUE(complaints[0].ends_with("; using step-20")) << complaints[0];
    save_alone(root(), 40);  // gives a good one in its place
    complaints.clear();
    checkpoint = open_newest_good(root(), complaints);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ(checkpoint->step(), 40u);
    EXPECT_TRUE(complaints.empty());
  }
}

TEST_F(CheckpointTest, NothingThereIsNothing) {
  std::vector<std::string> complaints;
  EXPECT_FALSE(open_newest_good(root(), complaints));
  EXPECT_TRUE(complaints.empty());
  save_alone(root(), 20);
  fs::remove(data(20));
  EXPECT_FALSE(open_newest_good(root(), complaints));
  ASSERT_EQ(complaints.size(), 1u);
  EXPECT_NE(complaints[0].find("no older one"), std::string::npos) << complaints[0];
}

TEST_F(CheckpointTest, LeftoversAreNamedAndRemovedByTheNextSave) {
  save_alone(root(), 20);
  fs::copy(step(20), root() / "step-40.partial", fs::copy_options::recursive);
  fs::create_directory(root() / "step-10.partial");
  fs::create_directory(root() / "step-30.partial.old");  // not ours
  std::vector<std::string> complaints;
  auto checkpoint = open_newest_good(root(), complaints);
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->step(), 20u);
  ASSERT_EQ(complaints.size(), 1u);  // step-10.partial is older: of no interest
  EXPECT_EQ(complaints[0], "checkpoint step-40 was never finished (step-40.partial is left of it); using step-20");
  save_alone(root(), 50);
  EXPECT_FALSE(fs::exists(root() / "step-40.partial"));
  EXPECT_FALSE(fs::exists(root() / "step-10.partial"));
  EXPECT_TRUE(fs::exists(root() / "step-30.partial.old"));
}

TEST_F(CheckpointTest, FindsOnlyProperNames) {
  for (const char* name : {"step-3", "step-20", "step-100", "step-", "step-x", "step-04", "step-7.partial", "stop-5",
                           "step--1", "step-99999999999999999999999"})
    fs::create_directories(root() / name);
  write_file(root() / "step-50", "a file");
  std::vector<uint64_t> steps;
  for (const CheckpointLocation& location : find_checkpoints(root())) steps.push_back(location.step);
  EXPECT_EQ(steps, (std::vector<uint64_t>{100, 20, 3}));
}

TEST_F(CheckpointTest, AnExistingGoodOneIsLeftAlone) {
  save_alone(root(), 20);
  const auto before = fs::last_write_time(step(20) / "manifest.json");
  const SaveResult result = save_alone(root(), 20);
  EXPECT_TRUE(result.was_there);
  EXPECT_EQ(fs::last_write_time(step(20) / "manifest.json"), before);
}

std::vector<uint64_t> steps_in(const fs::path& root) {
  std::vector<uint64_t> steps;
  for (const CheckpointLocation& location : find_checkpoints(root)) steps.push_back(location.step);
  return steps;
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  for (uint64_t n = 1; n <= 6; ++n) save_alone(root(), n, 3);
  EXPECT_EQ(steps_in(root()), (std::vector<uint64_t>{6, 5, 4}));
  save_alone(root(), 7, 0);  // never fewer than two
  EXPECT_EQ(steps_in(root()), (std::vector<uint64_t>{7, 6}));
}

TEST_F(CheckpointTest, TwoGoodOnesAlwaysRemain) {
  save_alone(root(), 10, 5);
  save_alone(root(), 20, 5);
  save_alone(root(), 30, 5);
  flip_byte(data(20), fs::file_size(data(20)) - 1);
  fs::remove(step(30) / "manifest.json");
  save_alone(root(), 40, 2);  // 30 and 20 are of no use: 10 must stay
  EXPECT_EQ(steps_in(root()), (std::vector<uint64_t>{40, 30, 20, 10}));
  save_alone(root(), 50, 2);  // now 50 and 40 are good
  EXPECT_EQ(steps_in(root()), (std::vector<uint64_t>{50, 40}));
}

TEST_F(CheckpointTest, TheFreshOneIsNeverPruned) {
  save_alone(root(), 100, 2);
  save_alone(root(), 90, 2);
  save_alone(root(), 20, 2);  // gone back, older by number
  EXPECT_EQ(steps_in(root()), (std::vector<uint64_t>{100, 20}));
}

/// Writes this manifest text with a right digest, as a forger would.
std::string signed_again(std::string text) {
  const size_t end = text.rfind(",\n\"digest\":\"");
  text.resize(end);
  return text + ",\n\"digest\":\"" + digest128_of(text).hex() + "\"}\n";
}

TEST_F(CheckpointTest, ForgedManifestsAreRefused) {
  save_alone(root(), 20);
  const std::string good = read_file(step(20) / "manifest.json");
  const struct {
    std::string from, to, word;
  } forgeries[] = {
      {"\"name\":\"rank-00000.safetensors\"", "\"name\":\"../rank-00000.safetensors\"", "plain name"},
      {"\"name\":\"rank-00000.safetensors\"", "\"name\":\"/etc/hostname\"", "plain name"},
      {"\"name\":\"rank-00000.safetensors\"", "\"name\":\"..\"", "plain name"},
      {"\"name\":\"rank-00000.safetensors\"", "\"name\":\"\"", "plain name"},
      {"\"version\":1", "\"version\":2", "version"},
      {"\"version\":1", "\"version\":1.0", "whole number"},
      {"capstan checkpoint", "other checkpoint", "format"},
      {"\"step\":20", "\"step\":-20", "not negative"},
      {"\"step\":20", "\"step\":21", "step 21"},
      {"\"step\":20", "\"step\":20,\"step\":20", "twice"},
      {"\"shape\":[3]", "\"shape\":[4]", "no slice"},
      {"\"shape\":[3]", "\"shape\":[2]", "leave the tensor"},
      {"\"shape\":[3]", "\"shape\":[9223372036854775807,3]", "overflows"},
      {"\"shape\":[3]", "\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,3]", "dims"},
      {"\"dtype\":\"I64\"", "\"dtype\":\"C64\"", "unknown"},
      {"\"file\":0", "\"file\":1", "file 1"},
      {"\"offset\":", "\"offset\":9", "leaves the file"},
      {"\"offset\":", "\"offset\":18446744073709551615,\"x\":", "leaves the file"},
      {"\"name\":\"counts\"", "\"name\":\"zzz\"", "sorted"},
      {"\"first\":0", "\"first\":1", "leave the tensor"},
      {"\"count\":54,", "\"count\":54,\"runs\":2,", "overlap"},
      {"\"count\":54,", "\"count\":18446744073709551615,\"runs\":2,\"stride\":18446744073709551615,", "leave"},
      {"\"count\":54,", "\"count\":53,", "no slice"},
      {"\"state\":{", "\"state\":[{", "JSON"},
      {"\"xxh3\":\"", "\"xxh3\":\"0", "digest"},
      {"{\"format\"", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[{\"format\"", "JSON"},
  };
  for (const auto& forgery : forgeries) {
    SCOPED_TRACE(forgery.to);
    std::string bad = good;
    const size_t at = bad.find(forgery.from);
    ASSERT_NE(at, std::string::npos) << forgery.from;
    bad.replace(at, forgery.from.size(), forgery.to);
    write_file(step(20) / "manifest.json", signed_again(bad));
    expect_error(ExitCode::bad_data, {"step-20", forgery.word}, [&] { Checkpoint::open(step(20)); });
  }
  write_file(step(20) / "manifest.json", signed_again(good));
  Checkpoint::open(step(20)).verify();
}

TEST_F(CheckpointTest, SlicesThatShareBytesAreRefused) {
  std::vector<float> values(8);
  LoneGroup alone;
  save_checkpoint(root(), 1, {{"a", DType::f32, {4}}, {"b", DType::f32, {4}}},
                  {{"a", 0, 4, values.data()}, {"b", 0, 4, values.data()}}, "{}", alone, 2);
  std::string text = read_file(step(1) / "manifest.json");
  const size_t first = text.find("\"offset\":") + 9, second = text.find("\"offset\":", first) + 9;
  const std::string offset = text.substr(first, text.find(',', first) - first);
  text.replace(second, text.find(',', second) - second, offset);
  write_file(step(1) / "manifest.json", signed_again(text));
  expect_error(ExitCode::bad_data, {"share"}, [&] { Checkpoint::open(step(1)); });
}

TEST(Runs, ProblemsAndCover) {
  EXPECT_EQ(problem_of({0, 10, 1, 0}, 10), "");
  EXPECT_NE(problem_of({1, 10, 1, 0}, 10), "");
  EXPECT_NE(problem_of({0, 0, 1, 0}, 10), "");
  EXPECT_NE(problem_of({0, 2, 3, 1}, 10), "");
  EXPECT_EQ(problem_of({1, 2, 3, 3}, 9), "");
  EXPECT_NE(problem_of({1, 2, 3, 4}, 10), "");
  EXPECT_EQ(cover_problem({{0, 1, 3, 3}, {1, 2, 3, 3}}, 9), "");
  EXPECT_NE(cover_problem({{0, 1, 3, 3}}, 9), "");
  EXPECT_NE(cover_problem({{0, 2, 3, 3}, {1, 2, 3, 3}}, 9).find("more than one"), std::string::npos);
  EXPECT_NE(cover_problem({{0, 1, 3, 3}, {1, 2, 2, 3}}, 9).find("7 to 9"), std::string::npos);
  EXPECT_EQ(cover_problem({}, 0), "");
  EXPECT_NE(cover_problem({}, 1), "");
  EXPECT_NE(cover_problem({{0, 1, uint64_t{1} << 40, 1}}, uint64_t{1} << 40).find("runs"), std::string::npos);
  EXPECT_EQ(runs_of_shard({4, 6}, 0, 1, 3), (Runs{6, 12, 1, 0}));
  EXPECT_EQ(runs_of_shard({4, 6}, 1, 2, 4), (Runs{2, 2, 4, 6}));
  EXPECT_EQ(runs_of_shard({4, 6}, 1, 0, 6), (Runs{0, 24, 1, 0}));
}

}  // namespace
}  // namespace capstan::testing
