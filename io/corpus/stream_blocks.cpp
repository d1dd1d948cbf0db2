#include "io/corpus/stream_blocks.h"

#include "core/error.h"
#include "io/corpus/stream_samples.h"

namespace capstan {

uint64_t SampleReader::tokens_of(size_t source) const {
  return together_ ? tokens_.size() : tokens_.begin_of(source + 1) - tokens_.begin_of(source);
}

PackedCorpus& SampleReader::packed(size_t source, uint64_t capacity) {
  CAPSTAN_CHECK(!together_, "packed samples of several corpora as one");
  std::unique_ptr<PackedCorpus>& table = packed_[{source, capacity}];
  if (!table) table = std::make_unique<PackedCorpus>(tokens_, source, capacity);
  return *table;
}

uint64_t SampleReader::blocks(size_t source, const SourceCut& cut) {
  if (cut.packing == Packing::stream) return stream_blocks(tokens_of(source), cut.block);
  return packed(source, cut.block).samples();
}

uint64_t SampleReader::first_token(size_t source, const SourceCut& cut, const BlockRun& run) {
  if (cut.packing == Packing::stream) return begin_of(source) + run.block * cut.block + run.offset;
  return packed(source, cut.block).first_token(run.block);
}

void SampleReader::read(size_t source, const SourceOrder& order, const SourcePosition& position, uint64_t ahead,
                        uint32_t* out, uint8_t* marks) {
  const SourceCut& cut = position.cut;
  uint64_t left = order.stride(), next = UINT64_MAX;  // `next`: where the run before ended
  order.runs(position, [&](const BlockRun& run) {
    left -= run.count;
    const uint64_t more = left == 0 ? ahead : 0;
    if (cut.packing == Packing::stream)
      tokens_.read(begin_of(source) + run.block * cut.block + run.offset, run.count + more, out, marks);
    else
      packed(source, cut.block).read(run.block, run.offset, run.count, more, out, marks);
    const uint64_t place = run.block * cut.block + run.offset;
    const bool goes_on = cut.packing == Packing::stream ? place == next : run.offset != 0 && place == next;
    if (next != UINT64_MAX && !goes_on) marks[0] |= kSeam;
    next = place + run.count;
    out += run.count, marks += run.count;
  });
}

size_t SampleReader::memory_bytes() const {
  size_t bytes = tokens_.memory_bytes();
  for (const auto& [key, table] : packed_) bytes += table->memory_bytes();
  return bytes;
}

}  // namespace capstan
