#include "launch/background_save.h"

#include <cstring>

#include "core/error.h"
#include "launch/program_state.h"

namespace capstan {
namespace {

constexpr size_t kBlock = size_t{4} << 20;  // of a copy, so that all threads have a share of a large slice

size_t bytes_of_slices(const std::vector<Slice>& slices, size_t element_bytes) {
  size_t bytes = 0;
  for (const Slice& slice : slices) bytes += static_cast<size_t>(slice.count * slice.runs) * element_bytes;
  return bytes;
}

StateSlices slices_of(const TrainingProgram& training) {
  const Mesh& mesh = training.program().mesh();
  return state_slices(training, mesh.rank(), mesh.ranks());
}

}  // namespace

BackgroundSave::~BackgroundSave() {
  if (thread_.joinable()) thread_.join();
}

size_t BackgroundSave::copy_bytes(const TrainingProgram& training) {
  return bytes_of_slices(slices_of(training).slices, bytes_of(training.master_dtype()));
}

void BackgroundSave::copy(const Program& program, std::vector<Slice>& slices, size_t element_bytes) {
  struct Block {
    char* to;
    const char* from;
    size_t bytes;
  };
  copy_.resize(bytes_of_slices(slices, element_bytes));
  std::vector<Block> blocks;
  char* to = copy_.data();
  for (Slice& slice : slices) {
    const size_t bytes = static_cast<size_t>(slice.count * slice.runs) * element_bytes;
    if (program.on_device())
      program.get(slice.data, bytes,
                  [&](const void* from, size_t first, size_t count) { std::memcpy(to + first, from, count); });
    for (size_t at = 0; !program.on_device() && at < bytes; at += kBlock)
      blocks.push_back({to + at, static_cast<const char*>(slice.data) + at, std::min(kBlock, bytes - at)});
    slice.data = to;
    to += bytes;
  }
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < blocks.size(); ++i) std::memcpy(blocks[i].to, blocks[i].from, blocks[i].bytes);
}

void BackgroundSave::start(const std::filesystem::path& directory, uint64_t step, const TrainingProgram& training,
                           std::string state_json) {
  CAPSTAN_CHECK(!under_way(), "a checkpoint is being written");
  StateSlices state = slices_of(training);
  copy(training.program(), state.slices, bytes_of(training.master_dtype()));
  save_ = std::make_unique<CheckpointSave>(directory, step, std::move(state.tensors), std::move(state.slices),
                                           std::move(state_json), group_);
  written_.store(false, std::memory_order_relaxed);
  thread_ = std::thread([this] {
    save_->write();
    written_.store(true, std::memory_order_release);
  });
}

SaveResult BackgroundSave::commit(int keep) {
  CAPSTAN_CHECK(under_way(), "no checkpoint is being written");
  thread_.join();
  const std::unique_ptr<CheckpointSave> save = std::move(save_);
  return save->commit(keep);
}

}  // namespace capstan
