#include "io/corpus/byte_source.h"

#include <fcntl.h>
#include <poll.h>
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

class StandardInputSource : public ByteSource {
 public:
  StandardInputSource(std::shared_ptr<StandardInput> input, Reading reading)
      : input_(std::move(input)), whole_(reading == Reading::whole) {}
  size_t read(char* out, size_t size) override {
    const std::string& prefix = input_->prefix();
    if (consumed_ < prefix.size()) size = std::min<size_t>(size, prefix.size() - consumed_);
    if (consumed_ < prefix.size())
      std::memcpy(out, prefix.data() + consumed_, size);
    else
      size = whole_ ? input_->read(out, size) : 0;
    consumed_ += size;
    return size;
  }
  uint64_t consumed() const override { return consumed_; }

 private:
  std::shared_ptr<StandardInput> input_;
  bool whole_;
  uint64_t consumed_ = 0;
};

}  // namespace

const std::string& StandardInput::prefix() {
  if (filled_) return prefix_;
  prefix_.resize(kPrefix);
  size_t size = 0;
  while (size < kPrefix && !ended_) size += read(prefix_.data() + size, kPrefix - size);
  prefix_.resize(size);
  prefix_.shrink_to_fit();
  filled_ = true;
  return prefix_;
}

bool StandardInput::ended_in_prefix() {
  static_cast<void>(prefix());
  return ended_;
}

size_t StandardInput::read(char* out, size_t size) {
  constexpr int kPatience = 100;  // milliseconds between two looks at `cancelled_`
  while (!ended_) {
    pollfd waiting{descriptor_, POLLIN, 0};
    if (cancelled_) throw Error(ExitCode::io_error, "standard input: reading was given up");
    if (poll(&waiting, 1, kPatience) == 0) continue;
    const ssize_t got = ::read(descriptor_, out, size);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw Error::make(ExitCode::io_error, "standard input: reading failed: {}", std::strerror(errno));
    ended_ = got == 0;
    return static_cast<size_t>(got);
  }
  return 0;
}

std::unique_ptr<ByteSource> open_byte_source(std::shared_ptr<StandardInput> input, Reading reading) {
  return std::make_unique<StandardInputSource>(std::move(input), reading);
}

std::unique_ptr<ByteSource> open_byte_source(const fs::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipSource>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdSource>(path);
  return std::make_unique<PlainSource>(path);
}

}  // namespace capstan
