#pragma once
// Shared by the checkpoint tests: a directory that goes away, ranks as threads, a small state of many dtypes with its
// values a function of (tensor, element, step), and three ways to cut it over ranks.

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/save.h"
#include "tests/support/temporary_directory.h"

namespace capstan::testing {
namespace fs = std::filesystem;

using support::TemporaryDirectory;

/// Runs of the elements [begin, end) of dim `dim`, all of the other dims: the slice of a tensor that Shard(dim) gives.
inline Runs runs_of_shard(const std::vector<int64_t>& shape, int dim, int64_t begin, int64_t end) {
  uint64_t outer = 1, inner = 1;
  for (int i = 0; i < dim; ++i) outer *= static_cast<uint64_t>(shape[i]);
  for (size_t i = dim + 1; i < shape.size(); ++i) inner *= static_cast<uint64_t>(shape[i]);
  const uint64_t stride = static_cast<uint64_t>(shape[dim]) * inner, count = static_cast<uint64_t>(end - begin) * inner;
  if (count == stride) return {0, outer * stride, 1, 0};  // the whole tensor
  return {static_cast<uint64_t>(begin) * inner, count, outer, outer > 1 ? stride : 0};
}

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline void flip_byte(const fs::path& path, size_t at) {
  std::string bytes = read_file(path);
  bytes.at(at) = static_cast<char>(bytes.at(at) ^ 0x10);
  write_file(path, bytes);
}

/// Relative names and bytes of all files below a directory.
inline std::map<std::string, std::string> tree_of(const fs::path& root) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), root).string()] = read_file(entry.path());
  return files;
}

/// Runs work and returns its Error; fails when there is none of that code whose message holds all the words.
inline std::string expect_error(ExitCode code, const std::vector<std::string>& words,
                                const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string& word : words)
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << "wanted '" << word << "': " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error, wanted one about " << (words.empty() ? "" : words[0]);
  return {};
}

/// What the threads of one test share.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size), strings_(static_cast<size_t>(size)) {}
  std::vector<std::string> gather(int rank, const std::string& mine) {
    std::unique_lock lock(mutex_);
    strings_[static_cast<size_t>(rank)] = mine;
    const int round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      result_ = strings_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, std::chrono::seconds(60), [&] { return round_ != round; })) {
      throw std::runtime_error("a rank did not come to the gather within 60 s");
    }
    return result_;
  }
  int size() const { return size_; }

 private:
  int size_, arrived_ = 0, round_ = 0;
  std::vector<std::string> strings_, result_;
  std::mutex mutex_;
  std::condition_variable changed_;
};

class ThreadGroup : public CheckpointGroup {
 public:
  ThreadGroup(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size(); }
  std::vector<std::string> gather(const std::string& mine) override { return meeting_.gather(rank_, mine); }

 private:
  Meeting& meeting_;
  int rank_;
};

/// Every rank's exception, null where it returned.
inline std::vector<std::exception_ptr> run_ranks(int ranks, const std::function<void(CheckpointGroup&)>& work) {
  Meeting meeting(ranks);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      ThreadGroup group(meeting, rank);
      try {
        work(group);
      } catch (...) {
        errors[static_cast<size_t>(rank)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline void rethrow_first(const std::vector<std::exception_ptr>& errors) {
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

struct StateTensor {
  LogicalTensor tensor;
  std::vector<char> bytes;
};
using State = std::map<std::string, StateTensor>;

inline State make_state(uint64_t step) {
  const std::vector<LogicalTensor> tensors = {
      {"block.0.q", DType::bf16, {6, 9}}, {"block.0.q/adam.m", DType::f32, {6, 9}},
      {"counts", DType::i64, {3}},        {"embedding", DType::f32, {7, 5, 4}},
      {"empty", DType::f32, {0, 4}},      {"mask", DType::u8, {5}},
      {"scale", DType::f64, {}},          {"half", DType::f16, {11}}};
  State state;
  for (const LogicalTensor& tensor : tensors) {
    StateTensor entry{tensor, std::vector<char>(elements_of(tensor) * bytes_of(tensor.dtype))};
    uint64_t x = step * 1000003 + std::hash<std::string>()(tensor.name);
    for (char& c : entry.bytes) {
      x = x * 6364136223846793005ull + 1442695040888963407ull;
      c = static_cast<char>(x >> 56);
    }
    state[tensor.name] = entry;
  }
  return state;
}

inline std::vector<LogicalTensor> tensors_of(const State& state) {
  std::vector<LogicalTensor> out;
  for (const auto& [name, entry] : state) out.push_back(entry.tensor);
  return out;
}

inline std::string state_json(uint64_t step) {
  return "{\"cursor\": " + std::to_string(step * 12) +
         ",\n \"text\":\"a } \\\" b\", \"random\": {\"key\": [1, 2.50]} }";
}

enum class Cut { whole, rows_and_columns, flat };

/// The slices of rank `rank` of `ranks`. Data of a columns slice is copied into `keep`.
inline std::vector<Slice> slices_of(const State& state, Cut cut, int rank, int ranks,
                                    std::vector<std::vector<char>>& keep) {
  std::vector<Slice> slices;
  const auto r = static_cast<uint64_t>(rank), n = static_cast<uint64_t>(ranks);
  uint64_t index = 0;
  for (const auto& [name, entry] : state) {
    const uint64_t total = elements_of(entry.tensor), width = bytes_of(entry.tensor.dtype);
    const std::vector<int64_t>& shape = entry.tensor.shape;
    const bool cut_up = cut == Cut::flat ? total >= n : cut == Cut::rows_and_columns && shape.size() >= 2;
    if (!cut_up) {  // one rank has it all; replicated state is divided by turns
      if (index++ % n == r) slices.push_back({name, 0, total, entry.bytes.data()});
      continue;
    }
    if (cut == Cut::flat) {
      const uint64_t from = total * r / n, to = total * (r + 1) / n;
      slices.push_back({name, from, to - from, entry.bytes.data() + from * width});
      continue;
    }
    const int dim = name == "embedding" ? 0 : static_cast<int>(shape.size()) - 1;
    const Runs runs = runs_of_shard(shape, dim, shape[dim] * rank / ranks, shape[dim] * (rank + 1) / ranks);
    if (runs.count == 0 || runs.runs == 0) continue;
    keep.emplace_back(runs.elements() * width);
    for (uint64_t i = 0; i < runs.runs; ++i)
      std::memcpy(keep.back().data() + i * runs.count * width,
                  entry.bytes.data() + (runs.first + i * runs.stride) * width, runs.count * width);
    slices.push_back({name, runs.first, runs.count, keep.back().data(), runs.runs, runs.stride});
  }
  return slices;
}

/// One rank of a save of make_state(step).
inline SaveResult save_state(const fs::path& directory, uint64_t step, Cut cut, CheckpointGroup& group, int keep = 2) {
  const State state = make_state(step);
  std::vector<std::vector<char>> kept;
  std::vector<Slice> slices = slices_of(state, cut, group.rank(), group.size(), kept);
  return save_checkpoint(directory, step, tensors_of(state), std::move(slices), state_json(step), group, keep);
}

inline SaveResult save_alone(const fs::path& directory, uint64_t step, int keep = 2) {
  LoneGroup alone;
  return save_state(directory, step, Cut::whole, alone, keep);
}

inline void save_by_ranks(const fs::path& directory, uint64_t step, Cut cut, int ranks, int keep = 2) {
  rethrow_first(run_ranks(ranks, [&](CheckpointGroup& group) { save_state(directory, step, cut, group, keep); }));
}

/// That the checkpoint holds make_state(its step), every byte of it.
inline void expect_whole(Checkpoint& checkpoint) {
  const State state = make_state(checkpoint.step());
  ASSERT_EQ(checkpoint.tensors().size(), state.size());
  EXPECT_EQ(checkpoint.state(), state_json(checkpoint.step()));
  for (const auto& [name, entry] : state) {
    const LogicalTensor* tensor = checkpoint.find(name);
    ASSERT_TRUE(tensor) << name;
    EXPECT_EQ(*tensor, entry.tensor);
    std::vector<char> got(entry.bytes.size());
    checkpoint.read(name, 0, elements_of(entry.tensor), got.data());
    EXPECT_EQ(got, entry.bytes) << name;
  }
}

}  // namespace capstan::testing
