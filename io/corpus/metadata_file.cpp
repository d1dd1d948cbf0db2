#include "io/corpus/metadata_file.h"

#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr int kLevel = 3;
constexpr int kLargestWindowLog = 23;  // 8 MiB of memory, whatever the file says

[[noreturn]] void refuse(const fs::path& path, const std::string& why) {
  throw Error::make(ExitCode::bad_data, "{}: {}; restore it from a copy or build the corpus again", path.string(), why);
}

/// Counts the lines of a compressed text, fed in pieces.
class LineCounter {
 public:
  explicit LineCounter(const fs::path& path) : path_(path), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, kLargestWindowLog);
  }
  void add(const char* data, size_t size) {
    ZSTD_inBuffer in{data, size, 0};
    for (bool more = true; more;) {
      ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
      left_ = ZSTD_decompressStream(stream_.get(), &out, &in);
      if (ZSTD_isError(left_)) refuse(path_, fmt::format("not a zstd file ({})", ZSTD_getErrorName(left_)));
      lines_ += static_cast<uint64_t>(std::count(buffer_.data(), buffer_.data() + out.pos, '\n'));
      more = in.pos < in.size || out.pos == out.size;
    }
  }
  uint64_t lines() const {
    if (left_ != 0) refuse(path_, "the zstd data end too early");
    return lines_;
  }

 private:
  const fs::path& path_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  std::vector<char> buffer_ = std::vector<char>(size_t{1} << 17);
  size_t left_ = 0;
  uint64_t lines_ = 0;
};

}  // namespace

struct MetadataWriter::Stream {
  Stream() : zstd(ZSTD_createCStream(), ZSTD_freeCStream) {
    if (!zstd || ZSTD_isError(ZSTD_CCtx_setParameter(zstd.get(), ZSTD_c_compressionLevel, kLevel)))
      throw Error(ExitCode::internal, "zstd cannot start");
  }
  std::unique_ptr<ZSTD_CStream, size_t (*)(ZSTD_CStream*)> zstd;
  std::vector<char> buffer = std::vector<char>(ZSTD_CStreamOutSize());
  std::string lines;
  DigestStream digest;
};

MetadataWriter::MetadataWriter(const fs::path& file)
    : final_(file), file_(partial_name(file)), stream_(std::make_unique<Stream>()) {}

MetadataWriter::~MetadataWriter() {
  if (!renamed_) unlink(file_.path().c_str());
}

void MetadataWriter::add(std::string_view line) {
  constexpr size_t kGathered = size_t{1} << 16;
  stream_->lines.append(line).push_back('\n');
  if (stream_->lines.size() < kGathered) return;
  compress(stream_->lines, ZSTD_e_continue);
  stream_->lines.clear();
}

void MetadataWriter::compress(std::string_view bytes, int end) {
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (bool more = true; more;) {
    ZSTD_outBuffer out{stream_->buffer.data(), stream_->buffer.size(), 0};
    const size_t left = ZSTD_compressStream2(stream_->zstd.get(), &out, &in, static_cast<ZSTD_EndDirective>(end));
    if (ZSTD_isError(left))
      throw Error::make(ExitCode::internal, "{}: zstd: {}", file_.path().string(), ZSTD_getErrorName(left));
    file_.write(stream_->buffer.data(), out.pos);
    stream_->digest.update(stream_->buffer.data(), out.pos);
    more = end == ZSTD_e_end ? left != 0 : in.pos < in.size;
  }
}

void MetadataWriter::finish(ShardRecord& record) {
  compress(stream_->lines, ZSTD_e_end);
  file_.sync_and_close();
  rename_durably(file_.path(), final_);
  renamed_ = true;
  record.metadata_size = file_.size();
  record.metadata_digest = stream_->digest.value();
}

void verify_metadata(const fs::path& directory, const ShardRecord& record) {
  const std::string name = metadata_name(record.file);
  const fs::path path = directory / name;
  const FileDescriptor file = open_beneath(directory, name);
  const uint64_t size = size_of(file, path);
  if (size != record.metadata_size)
    refuse(path, fmt::format("wanted {} bytes, the file has {}", record.metadata_size, size));
  DigestStream digest;
  LineCounter counter(path);
  std::vector<char> buffer(size_t{1} << 17);
  bool good = true;
  for (uint64_t at = 0; at < size;) {
    const ssize_t got = read(file.get(), buffer.data(), buffer.size());
    if (got <= 0) refuse(path, fmt::format("cannot be read beyond byte {}", at));
    digest.update(buffer.data(), static_cast<size_t>(got));
    at += static_cast<uint64_t>(got);
    try {
      if (good) counter.add(buffer.data(), static_cast<size_t>(got));
    } catch (const Error&) {
      good = false;  // the digest says it better
    }
  }
  if (!good || digest.value() != record.metadata_digest)
    refuse(path, "it does not have the digest that the manifest gives");
  if (counter.lines() != record.documents)
    refuse(path, fmt::format("wanted a line for each of {} documents, got {}", record.documents, counter.lines()));
}

}  // namespace capstan
