#include "io/document_reader_bytes.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

constexpr size_t kBuffer = size_t{1} << 17;

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(const fs::path& path)
      : path_(path), file_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (!file_.valid())
      throw Error::make(ExitCode::missing_input, "{}: cannot open this input: {}", path.string(), std::strerror(errno));
    size_of(file_, path);
  }
  size_t read(char* out, size_t size) override {
    for (;;) {
      const ssize_t got = ::read(file_.get(), out, size);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        throw Error::make(ExitCode::io_error, "{}: reading failed: {}", path_.string(), std::strerror(errno));
      consumed_ += static_cast<uint64_t>(got);
      return static_cast<size_t>(got);
    }
  }
  uint64_t consumed() const override { return consumed_; }

 private:
  fs::path path_;
  FileDescriptor file_;
  uint64_t consumed_ = 0;
};

[[noreturn]] void refuse(const fs::path& path, const char* kind, const char* why) {
  throw Error::make(ExitCode::bad_data, "{}: not a whole {} file: {}", path.string(), kind, why);
}

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(const fs::path& path) : path_(path), file_(path), buffer_(kBuffer) {
    constexpr int kGzipOnly = 15 + 16;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK)
      throw Error::make(ExitCode::internal, "{}: zlib cannot start", path.string());
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(char* out, size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(std::min(size, kBuffer));
    const uInt room = stream_.avail_out;
    while (stream_.avail_out == room) {
      if (stream_.avail_in == 0 && !refill()) {
        if (inside_ || !any_) refuse(path_, "gzip", "it ends too early");
        return 0;
      }
      if (!inside_) inflateReset(&stream_);
      inside_ = any_ = true;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END)
        inside_ = false;
      else if (result != Z_OK && result != Z_BUF_ERROR)
        refuse(path_, "gzip", stream_.msg ? stream_.msg : "its data are damaged");
    }
    return room - stream_.avail_out;
  }
  uint64_t consumed() const override { return file_.consumed(); }

 private:
  bool refill() {
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    stream_.avail_in = static_cast<uInt>(file_.read(buffer_.data(), buffer_.size()));
    return stream_.avail_in > 0;
  }

  fs::path path_;
  PlainSource file_;
  std::vector<char> buffer_;
  z_stream stream_{};
  bool inside_ = false, any_ = false;
};

class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(const fs::path& path)
      : path_(path), file_(path), buffer_(kBuffer), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    if (!stream_) throw Error::make(ExitCode::internal, "{}: zstd cannot start", path.string());
  }

  size_t read(char* out, size_t size) override {
    ZSTD_outBuffer target{out, size, 0};
    while (target.pos == 0) {
      if (input_.pos == input_.size && !flush_) {
        input_ = {buffer_.data(), file_.read(buffer_.data(), buffer_.size()), 0};
        if (input_.size == 0) {
          if (inside_ || !any_) refuse(path_, "zstd", "it ends too early");
          return 0;
        }
      }
      any_ = true;
      const size_t left = ZSTD_decompressStream(stream_.get(), &target, &input_);
      if (ZSTD_isError(left)) refuse(path_, "zstd", ZSTD_getErrorName(left));
      inside_ = left != 0;
      flush_ = inside_ && target.pos == target.size;  // more may wait inside the decoder
    }
    return target.pos;
  }
  uint64_t consumed() const override { return file_.consumed(); }

 private:
  fs::path path_;
  PlainSource file_;
  std::vector<char> buffer_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool inside_ = false, any_ = false, flush_ = false;
};

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const fs::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipSource>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdSource>(path);
  return std::make_unique<PlainSource>(path);
}

}  // namespace capstan
