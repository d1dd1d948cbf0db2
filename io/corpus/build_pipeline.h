#pragma once
// BuildPipeline: blocks of all inputs through four stages: readers (several files at once) -> parsers -> the router
// (one block at a time, in order) -> encoders -> whoever calls next(), in order. Parsers and encoders are the same
// threads, older blocks first. The clever thing: blocks get their number when they are taken from the readers in the
// order of the inputs, and what blocks may hold in memory is granted in that order too, so the oldest block always goes
// on and nothing can wait for itself. The result does not depend on the number of threads, errors included: an error
// waits in its block until that block's turn.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "io/corpus/block_reader.h"
#include "io/corpus/blocks.h"
#include "io/corpus/inputs.h"

namespace capstan {

struct PipelineStages {
  std::function<void(Block&, int thread)> parse;
  std::function<void(Block&)> route;
  std::function<void(Block&, int thread)> encode;
};

class BuildPipeline {
 public:
  BuildPipeline(const std::vector<InputFile>& files, BlockOptions options, PipelineStages stages, int threads);
  /// Ends all threads.
  ~BuildPipeline();
  BuildPipeline(const BuildPipeline&) = delete;
  BuildPipeline& operator=(const BuildPipeline&) = delete;

  /// The next block in order; false after the last. Throws what went wrong in it.
  bool next(Block& block);

 private:
  /// Consecutive inputs that one reader takes: small ones together, a large one alone.
  struct Unit {
    size_t first_file = 0, end_file = 0;
    std::deque<Block> blocks;
    size_t bytes = 0;
    bool ended = false;
  };
  void make_units();
  void read_units();
  void read_unit(Unit& unit);
  bool hand_over(Unit& unit, Block&& block);
  void work(int thread);
  bool may_take() const;
  void take_and_parse(std::unique_lock<std::mutex>& lock, int thread);
  void route_parsed(std::unique_lock<std::mutex>& lock);
  void encode_one(std::unique_lock<std::mutex>& lock, int thread);

  const std::vector<InputFile>& files_;
  const BlockOptions options_;
  const PipelineStages stages_;
  const size_t memory_;  ///< cost of all blocks between take and next()

  std::mutex mutex_;
  std::condition_variable readers_wake_, workers_wake_, writer_wakes_;
  std::vector<Unit> units_;
  size_t next_unit_ = 0;     ///< to be read
  size_t current_unit_ = 0;  ///< to be taken from
  size_t readers_ = 1;
  uint64_t taken_ = 0, routed_ = 0, given_ = 0;  ///< numbers of blocks
  size_t in_flight_ = 0;
  bool routing_ = false, stop_ = false;
  std::map<uint64_t, Block> parsed_, encoding_, encoded_;
  std::vector<std::thread> threads_;
};

/// Bytes of text that may be between readers and writer at once, for this number of threads.
size_t pipeline_memory(int threads);

}  // namespace capstan
