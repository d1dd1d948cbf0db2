#include "io/weights/parameter_source.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "io/printable.h"
#include "io/weights/element_cast.h"

namespace capstan {
namespace {

constexpr uint64_t kWeightBlock = uint64_t{1} << 20;  // stays in a processor's cache from reading to writing
constexpr size_t kTurnedKept = 2;

std::string shape_text(const std::vector<int64_t>& shape) { return to_string(shape); }

/// Transposes rows x columns elements in tiles that stay in the cache.
template <typename Word>
void transpose_words(const char* src, int64_t rows, int64_t columns, char* dst, int64_t dst_stride) {
  constexpr int64_t kTile = 32;
  for (int64_t r = 0; r < rows; r += kTile)
    for (int64_t c = 0; c < columns; c += kTile)
      for (int64_t j = c; j < std::min(c + kTile, columns); ++j)
        for (int64_t i = r; i < std::min(r + kTile, rows); ++i)
          std::memcpy(dst + static_cast<size_t>(j * dst_stride + i) * sizeof(Word),
                      src + static_cast<size_t>(i * columns + j) * sizeof(Word), sizeof(Word));
}

void transpose(const char* src, int64_t rows, int64_t columns, char* dst, int64_t dst_stride, size_t size) {
  if (size == 2) return transpose_words<uint16_t>(src, rows, columns, dst, dst_stride);
  if (size == 4) return transpose_words<uint32_t>(src, rows, columns, dst, dst_stride);
  transpose_words<uint64_t>(src, rows, columns, dst, dst_stride);
}

/// Rows of ours that stand at rows [first, last) of theirs, where they begin, in any order.
template <typename Visit>
void each_run_within(const std::vector<MappedPiece>& pieces, int64_t first, int64_t last, Visit&& visit) {
  for (const MappedPiece& piece : pieces)
    for (const RowRun& run : piece.runs) {
      const int64_t from = std::max(first, run.theirs), to = std::min(last, run.theirs + run.count);
      if (from < to) visit(piece, RowRun{run.ours + (from - run.theirs), from, to - from});
    }
}

}  // namespace

CheckpointSource::CheckpointSource(Checkpoint& checkpoint, const ParameterSet& parameters) : checkpoint_(checkpoint) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    const LogicalTensor* tensor = checkpoint.find(parameter.name);
    if (tensor == nullptr || tensor->shape != parameter.logical_shape() || !is_weight_dtype(tensor->dtype))
      throw Error::make(ExitCode::bad_data, "checkpoint {}: wanted parameter {} of shape {}, {}",
                        checkpoint.path().string(), parameter.name, shape_text(parameter.logical_shape()),
                        tensor ? fmt::format("it is {} of type {}", shape_text(tensor->shape), name_of(tensor->dtype))
                               : "there is none");
  }
}

DType CheckpointSource::dtype(const std::string& parameter) const { return checkpoint_.find(parameter)->dtype; }

void CheckpointSource::read(const std::string& parameter, int64_t first, int64_t count, void* dst) {
  const auto length = static_cast<uint64_t>(row_shape(checkpoint_.find(parameter)->shape).length);
  checkpoint_.read(parameter, static_cast<uint64_t>(first) * length, static_cast<uint64_t>(count) * length, dst);
}

MappedSource::MappedSource(const TensorFiles& files, const TensorMap& map) : files_(files), map_(map) {
  std::string mistakes;
  for (const MappedTensor& tensor : map.tensors()) check_shape(tensor, mistakes);
  check_unused(mistakes);
  if (!mistakes.empty())
    throw Error::make(ExitCode::bad_data, "{} does not hold the model that is described beside it:{}",
                      files.path().string(), mistakes);
}

std::string MappedSource::name_in_files(const std::string& name) const {
  const std::string_view base = map_.family().base;
  if (files_.find(name) == nullptr && name.rfind(base, 0) == 0 && files_.find(name.substr(base.size())) != nullptr)
    return name.substr(base.size());
  return name;
}

void MappedSource::check_shape(const MappedTensor& tensor, std::string& mistakes) {
  const std::string name = name_in_files(tensor.name);
  names_[tensor.name] = name;
  const StoredTensor* stored = files_.find(name);
  if (stored == nullptr)
    mistakes += fmt::format("\n  {} {} is missing", tensor.name, shape_text(tensor.shape));
  else if (!stored->dtype || !is_weight_dtype(*stored->dtype))
    mistakes += fmt::format("\n  {} is of type {}, wanted F64, F32, BF16 or F16", printable(name), stored->type);
  else if (stored->shape != tensor.shape)
    mistakes +=
        fmt::format("\n  {} is {}, wanted {}", printable(name), shape_text(stored->shape), shape_text(tensor.shape));
}

void MappedSource::check_unused(std::string& mistakes) {
  std::vector<std::string_view> used;
  for (const auto& [ours, theirs] : names_) used.push_back(theirs);
  std::sort(used.begin(), used.end());
  std::string head;
  for (const NameRow& row : map_.family().names)
    if (std::string_view(row.ours) == "head") head = std::string(row.theirs) + ".weight";
  for (const auto& [name, stored] : files_.tensors()) {
    if (std::binary_search(used.begin(), used.end(), std::string_view(name))) continue;
    const auto& buffers = constant_buffers();
    const bool constant = std::any_of(buffers.begin(), buffers.end(),
                                      [&, &tensor = name](const char* end) { return ("." + tensor).ends_with(end); });
    if (constant)
      unused_.constants.push_back(name);
    else if (name == head && map_.model().tied)
      check_tied_head(name, mistakes);
    else
      mistakes += fmt::format("\n  {} {} is left over: nothing in the model takes it", printable(name),
                              shape_text(stored.shape));
  }
}

/// A head that is said to be the embedding may stand in the file a second time, if it is the same.
void MappedSource::check_tied_head(const std::string& name, std::string& mistakes) {
  const TensorMap::Place place = map_.place_of("token_embedding.weight");
  const std::string& table = names_[place.tensor->name];
  const StoredTensor *head = files_.find(name), *embedding = files_.find(table);
  if (embedding == nullptr) return;
  bool same = head->dtype == embedding->dtype && head->shape == embedding->shape;
  std::vector<char> a, b;
  for (uint64_t at = 0; same && at < head->bytes; at += kWeightBlock) {
    const uint64_t bytes = std::min(kWeightBlock, head->bytes - at);
    a.resize(bytes), b.resize(bytes);
    files_.read(name, a.data(), at, bytes);
    files_.read(table, b.data(), at, bytes);
    same = a == b;
  }
  if (same)
    unused_.notices.push_back(name + " is a second copy of the token embedding");
  else
    mistakes += fmt::format(
        "\n  {} differs from {}, but the model is described with one for both (tie_word_embeddings)", name, table);
}

DType MappedSource::dtype(const std::string& parameter) const {
  return files_.find(names_.at(map_.place_of(parameter).tensor->name))->dtype.value();
}

/// The tensor with our rows as rows; the last few are kept, since q, k and v of one are asked for in turn.
const MappedSource::Turned& MappedSource::turned(const MappedTensor& tensor) {
  for (const Turned& held : turned_)
    if (held.name == tensor.name) return held;
  if (turned_.size() == kTurnedKept) turned_.pop_front();
  const std::string& name = names_.at(tensor.name);
  const StoredTensor& stored = *files_.find(name);
  const size_t size = bytes_of(stored.dtype.value());
  Turned fresh{tensor.name, std::vector<char>(stored.bytes)};
  const int64_t lines = tensor.row_length;  // of the file
  const uint64_t line_bytes = static_cast<uint64_t>(tensor.rows) * size;
  const int64_t at_once = std::max<int64_t>(1, static_cast<int64_t>(kWeightBlock / std::max<uint64_t>(1, line_bytes)));
  std::vector<char> block;
  for (int64_t first = 0; first < lines; first += at_once) {
    const int64_t count = std::min(at_once, lines - first);
    block.resize(static_cast<size_t>(count) * line_bytes);
    files_.read(name, block.data(), static_cast<uint64_t>(first) * line_bytes, block.size());
    transpose(block.data(), count, tensor.rows, fresh.rows.data() + static_cast<size_t>(first) * size, lines, size);
  }
  turned_.push_back(std::move(fresh));
  return turned_.back();
}

void MappedSource::read(const std::string& parameter, int64_t first, int64_t count, void* dst) {
  const auto [tensor, piece] = map_.place_of(parameter);
  CAPSTAN_CHECK(tensor, "no tensor holds {}", parameter);
  const std::string& name = names_.at(tensor->name);
  const uint64_t row_bytes = static_cast<uint64_t>(tensor->row_length) * bytes_of(files_.find(name)->dtype.value());
  const Turned* held = tensor->transposed ? &turned(*tensor) : nullptr;
  for (const RowRun& run : piece->runs) {
    const int64_t from = std::max(first, run.ours), to = std::min(first + count, run.ours + run.count);
    if (from >= to) continue;
    char* into = static_cast<char*>(dst) + static_cast<uint64_t>(from - first) * row_bytes;
    const uint64_t at = static_cast<uint64_t>(run.theirs + from - run.ours) * row_bytes;
    const uint64_t bytes = static_cast<uint64_t>(to - from) * row_bytes;
    if (held)
      std::copy_n(held->rows.data() + at, bytes, into);
    else
      files_.read(name, into, at, bytes);
  }
}

ParameterStream::ParameterStream(ParameterSource& source, std::string parameter, const std::vector<int64_t>& shape,
                                 DType to)
    : source_(source), parameter_(std::move(parameter)), shape_(row_shape(shape)), to_(to) {}

void ParameterStream::refill() {
  const uint64_t row_bytes = static_cast<uint64_t>(shape_.length) * bytes_of(to_);
  const auto at_once = static_cast<int64_t>(std::max<uint64_t>(1, kWeightBlock / std::max<uint64_t>(1, row_bytes)));
  const int64_t count = std::min(at_once, shape_.rows - next_row_);
  CAPSTAN_CHECK(count > 0, "{} has no more than {} rows", parameter_, shape_.rows);
  const DType from = source_.dtype(parameter_);
  const size_t elements = static_cast<size_t>(count * shape_.length);
  begin_ += buffer_.size();
  buffer_.resize(elements * bytes_of(to_));
  next_row_ += count;
  if (from == to_) return source_.read(parameter_, next_row_ - count, count, buffer_.data());
  stored_.resize(elements * bytes_of(from));
  source_.read(parameter_, next_row_ - count, count, stored_.data());
  if (const size_t overflowed = cast_elements(stored_.data(), from, buffer_.data(), to_, elements))
    throw Error::make(ExitCode::bad_data, "{} values of {} are too large for {}; choose --dtype bf16 or f32",
                      overflowed, parameter_, name_of(to_));
}

void ParameterStream::read(uint64_t first, uint64_t bytes, void* dst) {
  CAPSTAN_CHECK(first == at_, "{} is read at byte {} after {}", parameter_, first, at_);
  char* to = static_cast<char*>(dst);
  while (bytes > 0) {
    if (at_ == begin_ + buffer_.size()) refill();
    const uint64_t from = at_ - begin_, count = std::min(bytes, buffer_.size() - from);
    std::copy_n(buffer_.data() + from, count, to);
    at_ += count, to += count, bytes -= count;
  }
  if (next_row_ < shape_.rows || at_ < begin_ + buffer_.size()) return;
  begin_ += buffer_.size();  // all has been read: many of these wait their turn side by side
  std::vector<char>().swap(buffer_);
  std::vector<char>().swap(stored_);
}

namespace {

/// Rows [first, last) of theirs, as rows, in the type asked for.
void gather_rows(const MappedTensor& tensor, ParameterSource& source, DType to, int64_t first, int64_t last,
                 std::vector<char>& stored, char* out) {
  const auto length = static_cast<size_t>(tensor.row_length);
  each_run_within(tensor.pieces, first, last, [&](const MappedPiece& piece, const RowRun& run) {
    const DType from = source.dtype(piece.parameter);
    char* into = out + static_cast<size_t>(run.theirs - first) * length * bytes_of(to);
    const size_t elements = static_cast<size_t>(run.count) * length;
    if (from == to) return source.read(piece.parameter, run.ours, run.count, into);
    stored.resize(elements * bytes_of(from));
    source.read(piece.parameter, run.ours, run.count, stored.data());
    if (const size_t overflowed = cast_elements(stored.data(), from, into, to, elements))
      throw Error::make(ExitCode::bad_data, "{}: {} values of {} are too large for {}; choose --dtype bf16 or f32",
                        tensor.name, overflowed, piece.parameter, name_of(to));
  });
}

}  // namespace

void write_mapped_tensor(const MappedTensor& tensor, ParameterSource& source, DType to,
                         const std::function<void(const void*, uint64_t)>& put) {
  const size_t size = bytes_of(to);
  const size_t row_bytes = static_cast<size_t>(tensor.row_length) * size;
  std::vector<char> stored, block;
  if (tensor.transposed) {
    std::vector<char> rows(static_cast<size_t>(tensor.rows) * row_bytes);
    gather_rows(tensor, source, to, 0, tensor.rows, stored, rows.data());
    block.resize(rows.size());
    transpose(rows.data(), tensor.rows, tensor.row_length, block.data(), tensor.rows, size);
    return put(block.data(), block.size());
  }
  const int64_t at_once = std::max<int64_t>(1, static_cast<int64_t>(kWeightBlock / std::max<size_t>(1, row_bytes)));
  for (int64_t first = 0; first < tensor.rows; first += at_once) {
    const int64_t last = std::min(first + at_once, tensor.rows);
    block.resize(static_cast<size_t>(last - first) * row_bytes);
    gather_rows(tensor, source, to, first, last, stored, block.data());
    put(block.data(), block.size());
  }
}

}  // namespace capstan
