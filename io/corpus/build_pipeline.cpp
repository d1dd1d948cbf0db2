#include "io/corpus/build_pipeline.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace capstan {
namespace {

constexpr uint64_t kUnitBytes = uint64_t{4} << 20;
constexpr size_t kMostFilesInUnit = 512;
constexpr size_t kReadAhead = size_t{4} << 20;  ///< of one unit, before it is taken from
constexpr size_t kMostReaders = 8;

size_t bytes_in(const Block& block) {
  return block.bytes.size() + block.documents.size() * sizeof(BlockDocument) + sizeof(Block);
}

template <typename Action>
void guarded(Block& block, const Action& action) {
  if (block.error) return;
  try {
    action();
  } catch (...) {
    const uint64_t consumed = block.consumed;
    const size_t cost = block.cost, file = block.file;
    block = {};
    block.error = std::current_exception();
    block.consumed = consumed;
    block.cost = cost;
    block.file = file;
  }
}

}  // namespace

size_t pipeline_memory(int threads) { return (size_t{4} << 20) * static_cast<size_t>(threads + 1); }

BuildPipeline::BuildPipeline(const std::vector<InputFile>& files, BlockOptions options, PipelineStages stages,
                             int threads)
    : files_(files), options_(std::move(options)), stages_(std::move(stages)), memory_(pipeline_memory(threads)) {
  make_units();
  readers_ = std::clamp<size_t>(static_cast<size_t>(threads) / 4, 1, std::min(kMostReaders, units_.size()));
  for (size_t i = 0; i < readers_; ++i) threads_.emplace_back([this] { read_units(); });
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { work(i); });
}

BuildPipeline::~BuildPipeline() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  for (const InputFile& file : files_)
    if (file.standard_input) file.standard_input->cancel();
  readers_wake_.notify_all();
  workers_wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void BuildPipeline::make_units() {
  uint64_t bytes = kUnitBytes;
  for (size_t i = 0; i < files_.size(); ++i) {
    const bool joins = !units_.empty() && bytes + files_[i].size <= kUnitBytes && !files_[i].standard_input &&
                       i - units_.back().first_file < kMostFilesInUnit;
    if (!joins) {
      units_.emplace_back();
      units_.back().first_file = i;
      bytes = files_[i].standard_input ? kUnitBytes : 0;
    }
    units_.back().end_file = i + 1;
    bytes += files_[i].size;
  }
}

void BuildPipeline::read_units() {
  for (;;) {
    Unit* unit = nullptr;
    {
      std::unique_lock lock(mutex_);
      readers_wake_.wait(lock, [&] { return stop_ || next_unit_ < current_unit_ + readers_ + 1; });
      if (stop_ || next_unit_ >= units_.size()) return;
      unit = &units_[next_unit_++];
    }
    read_unit(*unit);
    const std::lock_guard lock(mutex_);
    unit->ended = true;
    workers_wake_.notify_all();
    writer_wakes_.notify_all();
  }
}

void BuildPipeline::read_unit(Unit& unit) {
  for (size_t file = unit.first_file; file < unit.end_file; ++file) {
    std::unique_ptr<BlockReader> reader;
    uint64_t consumed = 0;
    for (bool more = true; more;) {
      Block block;
      block.file = file;
      guarded(block, [&] {
        if (!reader) reader = open_block_reader(files_[file], options_);
        more = reader->next(block);
      });
      if (block.error) {
        hand_over(unit, std::move(block));
        return;
      }
      block.consumed = reader->consumed() - std::exchange(consumed, reader->consumed());
      if ((more || block.consumed > 0) && !hand_over(unit, std::move(block))) return;
    }
  }
}

bool BuildPipeline::hand_over(Unit& unit, Block&& block) {
  const size_t bytes = bytes_in(block);
  std::unique_lock lock(mutex_);
  readers_wake_.wait(lock, [&] { return stop_ || unit.bytes == 0 || unit.bytes + bytes <= kReadAhead; });
  if (stop_) return false;
  block.cost = bytes;
  unit.bytes += bytes;
  unit.blocks.push_back(std::move(block));
  workers_wake_.notify_one();
  return true;
}

bool BuildPipeline::may_take() const {
  if (current_unit_ == units_.size()) return false;
  const Unit& unit = units_[current_unit_];
  if (unit.blocks.empty()) return unit.ended;  // then take_and_parse goes on to the next unit
  return in_flight_ == 0 || in_flight_ + unit.blocks.front().cost <= memory_;
}

void BuildPipeline::work(int thread) {
  std::unique_lock lock(mutex_);
  for (;;) {
    workers_wake_.wait(lock, [&] { return stop_ || !encoding_.empty() || may_take(); });
    if (stop_) return;
    if (!encoding_.empty())
      encode_one(lock, thread);
    else
      take_and_parse(lock, thread);
  }
}

void BuildPipeline::take_and_parse(std::unique_lock<std::mutex>& lock, int thread) {
  Unit& unit = units_[current_unit_];
  if (unit.blocks.empty()) {
    ++current_unit_;
    readers_wake_.notify_all();
    workers_wake_.notify_all();
    writer_wakes_.notify_all();
    return;
  }
  Block block = std::move(unit.blocks.front());
  unit.blocks.pop_front();
  unit.bytes -= block.cost;
  in_flight_ += block.cost;
  const uint64_t number = taken_++;
  readers_wake_.notify_all();
  workers_wake_.notify_one();
  lock.unlock();
  guarded(block, [&] { stages_.parse(block, thread); });
  lock.lock();
  parsed_.emplace(number, std::move(block));
  route_parsed(lock);
}

/// Whoever parsed the block that was waited for routes it and all that follow.
void BuildPipeline::route_parsed(std::unique_lock<std::mutex>& lock) {
  while (!routing_ && !stop_ && !parsed_.empty() && parsed_.begin()->first == routed_) {
    routing_ = true;
    auto node = parsed_.extract(parsed_.begin());
    lock.unlock();
    guarded(node.mapped(), [&] { stages_.route(node.mapped()); });
    lock.lock();
    encoding_.insert(std::move(node));
    ++routed_;
    routing_ = false;
    workers_wake_.notify_one();
  }
}

void BuildPipeline::encode_one(std::unique_lock<std::mutex>& lock, int thread) {
  auto node = encoding_.extract(encoding_.begin());
  lock.unlock();
  guarded(node.mapped(), [&] { stages_.encode(node.mapped(), thread); });
  lock.lock();
  encoded_.insert(std::move(node));
  writer_wakes_.notify_all();
}

bool BuildPipeline::next(Block& block) {
  std::unique_lock lock(mutex_);
  in_flight_ -= std::exchange(block.cost, 0);
  workers_wake_.notify_all();
  const auto ready = [&] { return !encoded_.empty() && encoded_.begin()->first == given_; };
  writer_wakes_.wait(lock, [&] { return ready() || (current_unit_ == units_.size() && given_ == taken_); });
  if (!ready()) return false;
  block = std::move(encoded_.extract(encoded_.begin()).mapped());
  ++given_;
  lock.unlock();
  if (block.error) std::rethrow_exception(block.error);
  return true;
}

}  // namespace capstan
