// label: mpi
// From step 3 on a step takes no heap memory in pieces above 4 KiB. The malloc family is replaced in this program,
// which starts itself again, alone and under mpirun, to train as `capstan train` does; a run of 12 steps must then ask
// for as many large pieces as one of 3 steps: what start-up, evaluation and the checkpoint at the end take is in both.
#include <gtest/gtest.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/philox.h"
#include "launch/command_line.h"
#include "tests/support/temporary_directory.h"

namespace {

constexpr size_t kLarge = 4096;
std::atomic<long> large_pieces{0}, large_bytes{0};

void count(size_t bytes) {
  if (bytes <= kLarge) return;
  large_pieces.fetch_add(1, std::memory_order_relaxed);
  large_bytes.fetch_add(static_cast<long>(bytes), std::memory_order_relaxed);
}

}  // namespace

// The C library calls its own allocator by these names; operator new ends in malloc.
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
  count(bytes);
  return __libc_malloc(bytes);
}
void* calloc(size_t pieces, size_t bytes) {
  count(pieces * bytes);
  return __libc_calloc(pieces, bytes);
}
void* realloc(void* old, size_t bytes) {
  count(bytes);
  return __libc_realloc(old, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  count(bytes);
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  count(bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  count(bytes);
  *out = __libc_memalign(alignment, bytes);
  return *out != nullptr ? 0 : ENOMEM;
}
}

namespace capstan {
namespace {

namespace fs = std::filesystem;

/// Open MPI takes a piece more when messages come before they are asked for, which happens now and then on a busy
/// machine; what a step takes it takes in every round.
constexpr int kRounds = 3;
constexpr const char* kReport = "CAPSTAN_TEST_REPORT";  // the folder in which a started process leaves its count

int train_and_report(int argc, char** argv) {
  const int code = run_command_line(argc, argv, std::cout, std::cerr);
  const long pieces = large_pieces.load(), bytes = large_bytes.load();
  std::ofstream(fs::path(getenv(kReport)) / std::to_string(getpid())) << pieces << " " << bytes << "\n";
  return code;
}

struct Count {
  long pieces = 0, bytes = 0;
  int processes = 0;
};

class NoAllocation : public ::testing::Test {
 protected:
  void SetUp() override {
    write_text();
    const char* words[] = {"capstan", "corpus", "build", "--out", nullptr, "--tokenizer", "bytes", nullptr};
    const std::string corpus = (folder_ / "corpus").string(), text = (folder_ / "text").string();
    words[4] = corpus.c_str(), words[7] = text.c_str();
    std::ostringstream out, err;
    ASSERT_EQ(run_command_line(8, words, out, err), 0) << err.str();
    std::ofstream(folder_ / "run.toml")
        << "[model]\nlayers = 2\nwidth = 64\nheads = 4\ncontext = 96\n"
        << "[train]\nglobal_batch = 16\nmicrobatch = 4\nevaluate_every = 0\nthreads = 1\n"
        << "[checkpoint]\nevery = 0\n";
  }

  /// Words of random letters: 37 chunks of tokens, so that later steps still read new ones.
  void write_text() const {
    fs::create_directories(folder_ / "text");
    for (uint64_t document = 0; document < 40; ++document) {
      std::ofstream file(folder_ / "text" / (std::to_string(document) + ".txt"));
      for (uint64_t i = 0; i < 30000; ++i) {
        const auto word = philox_word(5, document, i);
        file << (word % 6 == 0 ? ' ' : static_cast<char>('a' + word % 23));
      }
    }
  }

  /// Without a record of the run, which reads all of its steps at the end.
  Count run(int ranks, int steps, const std::string& settings) const {
    const fs::path reports = folder_ / ("reports-" + std::to_string(++runs_));
    fs::create_directories(reports);
    const std::string program = fs::read_symlink("/proc/self/exe").string();
    std::ostringstream command;
    command << kReport << "='" << reports.string() << "' timeout -k 5 100 ";
    if (ranks > 1)
      command << "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe -n " << ranks
              << " ";
    command << "'" << program << "' train '" << (folder_ / "run.toml").string() << "' data.corpora='"
            << (folder_ / "corpus").string() << "' run.dir='" << (reports / "run").string() << "' train.steps=" << steps
            << " schedule.warmup_steps=1 run.records=none " << settings << " > '" << (reports / "out.log").string()
            << "' 2>&1";
    EXPECT_EQ(std::system(command.str().c_str()), 0) << command.str() << "\n" << text_of(reports / "out.log");
    Count sum;
    for (const auto& entry : fs::directory_iterator(reports)) {
      if (!entry.is_regular_file() || entry.path().extension() == ".log") continue;
      Count one;
      std::ifstream(entry.path()) >> one.pieces >> one.bytes;
      sum.pieces += one.pieces, sum.bytes += one.bytes, ++sum.processes;
    }
    EXPECT_EQ(sum.processes, ranks);
    return sum;
  }

  static std::string text_of(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  void same_for_3_and_12_steps(int ranks, const std::string& settings) const {
    Count few, many;
    for (int i = 0; i < kRounds; ++i) {
      few = run(ranks, 3, settings), many = run(ranks, 12, settings);
      EXPECT_GT(few.pieces, 10) << "the counter does not count";
      if (many.pieces == few.pieces) return;
    }
    ADD_FAILURE() << settings << " on " << ranks << " ranks: " << many.pieces - few.pieces << " pieces, "
                  << many.bytes - few.bytes << " bytes more in steps 4 to 12, and so " << kRounds << " times";
  }

  const support::TemporaryDirectory folder_;
  mutable int runs_ = 0;
};

TEST_F(NoAllocation, TheCounterCounts) {
  const long before = large_pieces.load();
  for (size_t bytes : {size_t{100}, kLarge, kLarge + 1}) {
    std::vector<char> piece(bytes);
    asm volatile("" ::"r"(piece.data()) : "memory");
    void* aligned = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    asm volatile("" ::"r"(aligned) : "memory");
    free(aligned);
  }
  EXPECT_EQ(large_pieces.load() - before, 2);
}

TEST_F(NoAllocation, WhatAStepTakesIsSeen) {
  const std::string settings =
      "train.evaluate_every=1 train.evaluate_samples=16 train.microbatch=16";  // an evaluation has its own buffers
  EXPECT_GT(run(1, 12, settings).pieces, run(1, 3, settings).pieces);
}

TEST_F(NoAllocation, Alone) {
  same_for_3_and_12_steps(1, "train.dropout=0.1");
  same_for_3_and_12_steps(1, "train.precision=bf16 train.threads=2 layout.recompute=full");
  same_for_3_and_12_steps(1, "train.reduction=ordered");
}

TEST_F(NoAllocation, TwoRanks) {
  same_for_3_and_12_steps(2, "train.precision=fp32");
  same_for_3_and_12_steps(2, "train.precision=bf16 train.reduction=ordered");
}

}  // namespace
}  // namespace capstan

int main(int argc, char** argv) {
  if (getenv(capstan::kReport)) return capstan::train_and_report(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
