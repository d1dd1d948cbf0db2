#include "io/corpus/megatron_index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kBuffered = uint64_t{1} << 16;

FileDescriptor open_input(const fs::path& path) {
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid())
    throw Error::make(ExitCode::missing_input, "{}: cannot open this input: {}", path.string(), std::strerror(errno));
  return file;
}

template <typename T>
T load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace

uint64_t width_of(MegatronType type) {
  switch (type) {
    case MegatronType::u8:
    case MegatronType::i8:
      return 1;
    case MegatronType::i16:
    case MegatronType::u16:
      return 2;
    case MegatronType::i32:
      return 4;
    case MegatronType::i64:
      return 8;
  }
  return 0;
}

void MegatronIndex::refuse(const std::string& why) const {
  throw Error::make(ExitCode::bad_data, "{}: {}; the index is damaged, or does not belong to {}", index_path_.string(),
                    why, path_.string());
}

MegatronIndex::MegatronIndex(const fs::path& data)
    : path_(data),
      index_path_(fs::path(data).replace_extension(".idx")),
      data_(open_input(path_)),
      index_(open_input(index_path_)) {
  const uint64_t data_size = size_of(data_, path_);
  read_header(size_of(index_, index_path_), data_size);
  check_all(data_size);
}

void MegatronIndex::read_header(uint64_t index_size, uint64_t data_size) {
  char header[kMegatronHeader] = {};
  if (index_size < kMegatronHeader ||
      pread(index_.get(), header, sizeof header, 0) != static_cast<ssize_t>(sizeof header) ||
      std::string_view(header, kMegatronMagic.size()) != kMegatronMagic)
    refuse(
        "wanted the index of a Megatron-LM dataset (it begins with "
        "MMIDIDX), this is something else");
  const uint64_t version = load<uint64_t>(header + 9);
  if (version != kMegatronVersion) refuse(fmt::format("wanted version {}, got {}", kMegatronVersion, version));
  type_ = static_cast<MegatronType>(header[17]);
  const uint64_t width = width_of(type_);
  if (width == 0)
    refuse(fmt::format("wanted a whole-number type of token (codes 1 to 5 and 8), got code {}",
                       static_cast<unsigned char>(header[17])));
  sequences_ = load<uint64_t>(header + 18);
  boundaries_ = load<uint64_t>(header + 26);
  const uint64_t rest = index_size - kMegatronHeader;
  if (sequences_ > rest / 12 || boundaries_ > (rest - 12 * sequences_) / 8 || boundaries_ == 0)
    refuse(fmt::format("{} sequences and {} document boundaries do not fit a file of {} bytes", sequences_, boundaries_,
                       index_size));
  const uint64_t used = 12 * sequences_ + 8 * boundaries_;
  if (rest == used + sequences_) refuse("a multimodal dataset (with modes of sequences) cannot be imported");
  if (rest != used) refuse(fmt::format("wanted {} bytes, the file has {}", kMegatronHeader + used, index_size));
  if (data_size % width != 0) refuse(fmt::format("{} bytes of tokens are no multiple of {} bytes", data_size, width));
  tokens_ = data_size / width;
  lengths_ = {kMegatronHeader, sequences_, 4};
  documents_ = {kMegatronHeader + 12 * sequences_, boundaries_, 8};
}

int64_t MegatronIndex::number(Column& column, uint64_t at) {
  const uint64_t each = kBuffered / column.width;
  if (column.buffer.empty() || at < column.buffered_from || at >= column.buffered_from + each) {
    const uint64_t bytes = std::min(each, column.count - at) * column.width;
    column.buffer.resize(kBuffered);
    const ssize_t got =
        pread(index_.get(), column.buffer.data(), bytes, static_cast<off_t>(column.offset + at * column.width));
    if (got != static_cast<ssize_t>(bytes)) refuse("it shrank, or cannot be read any more");
    column.buffered_from = at;
  }
  const char* place = column.buffer.data() + (at - column.buffered_from) * column.width;
  return column.width == 4 ? load<int32_t>(place) : load<int64_t>(place);
}

void MegatronIndex::check_all(uint64_t data_size) {
  Column pointers{kMegatronHeader + 4 * sequences_, sequences_, 8};
  const uint64_t width = width_of(type_);
  uint64_t byte = 0;
  for (uint64_t i = 0; i < sequences_; ++i) {
    const int64_t length = number(lengths_, i), pointer = number(pointers, i);
    if (length < 0) refuse(fmt::format("sequence {} has {} tokens", i, length));
    if (static_cast<uint64_t>(pointer) != byte)
      refuse(
          fmt::format("sequence {} begins at byte {}, wanted byte {} where "
                      "the one before it ends",
                      i, pointer, byte));
    byte += static_cast<uint64_t>(length) * width;
    if (byte > data_size)
      refuse(fmt::format("sequence {} ends at byte {}, but the tokens have {} bytes", i, byte, data_size));
  }
  if (byte != data_size) refuse(fmt::format("its sequences hold {} bytes, the tokens have {}", byte, data_size));
  int64_t before = 0;
  for (uint64_t i = 0; i < boundaries_; ++i) {
    const int64_t boundary = number(documents_, i);
    if (boundary < before || boundary > static_cast<int64_t>(sequences_) || (i == 0 && boundary != 0))
      refuse(
          fmt::format("document {} begins at sequence {}, after one that "
                      "begins at {}, of {} sequences",
                      i, boundary, before, sequences_));
    before = boundary;
  }
  if (before != static_cast<int64_t>(sequences_))
    refuse(fmt::format("its documents end at sequence {}, wanted {}", before, sequences_));
}

bool MegatronIndex::next(MegatronDocument& document) {
  if (next_document_ + 1 >= boundaries_) return false;
  const auto end = static_cast<uint64_t>(number(documents_, ++next_document_));
  document = {next_token_, 0};
  for (; next_sequence_ < end && next_sequence_ < sequences_; ++next_sequence_)
    document.tokens += static_cast<uint64_t>(number(lengths_, next_sequence_));
  if (document.tokens > tokens_ - next_token_) refuse("it changed while it was being read");
  next_token_ += document.tokens;
  return true;
}

}  // namespace capstan
