#pragma once
// ByteWindow: a view on a ByteSource that grows at its end and is consumed at its front.

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "io/corpus/byte_source.h"

namespace capstan {

class ByteWindow {
 public:
  explicit ByteWindow(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}
  /// Makes at least `size` bytes visible, fewer only at the end of the input.
  void fill(size_t size) {
    while (!ended_ && end_ - begin_ < size) {
      if (begin_ > 0 && begin_ == end_) begin_ = end_ = 0;
      if (buffer_.size() - end_ < kRead) make_room();
      const size_t got = source_->read(buffer_.data() + end_, buffer_.size() - end_);
      end_ += got;
      ended_ = got == 0;
    }
  }
  std::string_view view() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void consume(size_t count) { begin_ += count; }
  bool ended() const { return ended_; }
  uint64_t consumed() const { return source_->consumed(); }

 private:
  static constexpr size_t kRead = size_t{1} << 18;
  void make_room() {
    if (begin_ > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    if (buffer_.size() - end_ < kRead) buffer_.resize(std::max(end_ + kRead, end_ + end_ / 2));
  }

  std::unique_ptr<ByteSource> source_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
  bool ended_ = false;
};

}  // namespace capstan
