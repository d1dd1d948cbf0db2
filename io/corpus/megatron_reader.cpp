#include "io/corpus/megatron_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "io/corpus/megatron_index.h"

namespace capstan {
namespace {

constexpr uint64_t kBlockTokens = uint64_t{1} << 18;
constexpr uint64_t kStretchTokens = uint64_t{1} << 22;

int64_t load_id(MegatronType type, const char* from) {
  const auto as = [from](auto value) {
    std::memcpy(&value, from, sizeof value);
    return static_cast<int64_t>(value);
  };
  switch (type) {
    case MegatronType::u8:
      return as(uint8_t{});
    case MegatronType::i8:
      return as(int8_t{});
    case MegatronType::i16:
      return as(int16_t{});
    case MegatronType::u16:
      return as(uint16_t{});
    case MegatronType::i32:
      return as(int32_t{});
    case MegatronType::i64:
      break;
  }
  return as(int64_t{});
}

class MegatronBlocks final : public BlockReader {
 public:
  explicit MegatronBlocks(const std::filesystem::path& data) : index_(data), width_(width_of(index_.type())) {}

  bool next(Block& block) override {
    block.token_type = index_.type();
    block.first_token = at_;
    if (left_ > 0) {
      block.id_before = last_id_;
      add(block, false);
    } else {
      for (MegatronDocument document; count_ < kBlockTokens && index_.next(document);) {
        left_ = document.tokens;
        if (left_ == 0) {
          ++block.empty;
          continue;
        }
        if (count_ > 0 && left_ > kStretchTokens) {
          next_ = left_, left_ = 0;
          break;
        }
        add(block, true);
        if (left_ > 0) break;
      }
    }
    if (left_ == 0 && next_ > 0 && count_ == 0) {
      left_ = std::exchange(next_, 0);
      add(block, true);
    }
    count_ = 0;
    return !block.documents.empty() || block.empty > 0;
  }
  uint64_t consumed() const override { return at_ * width_; }

 private:
  /// The next tokens of the open document.
  void add(Block& block, bool begins) {
    const uint64_t part = std::min(left_, kStretchTokens);
    const size_t place = block.bytes.size();
    block.bytes.resize(place + part * width_);
    for (size_t done = 0; done < part * width_;) {
      const ssize_t got = pread(index_.data().get(), block.bytes.data() + place + done, part * width_ - done,
                                static_cast<off_t>(at_ * width_ + done));
      if (got <= 0)
        throw Error::make(ExitCode::bad_data, "{}: ends at byte {}: it shrank while it was being read",
                          index_.path().string(), at_ * width_ + done);
      done += static_cast<size_t>(got);
    }
    BlockDocument& document = block.documents.emplace_back();
    document.begins = begins;
    document.ends = part == left_;
    document.first_token = count_;
    document.tokens = part;
    at_ += part;
    left_ -= part;
    count_ += part;
    last_id_ = load_id(index_.type(), block.bytes.data() + block.bytes.size() - width_);
  }

  MegatronIndex index_;
  const uint64_t width_;
  uint64_t at_ = 0, left_ = 0, next_ = 0, count_ = 0;
  int64_t last_id_ = -1;
};

/// Documents of one block, ended where the end of document stands.
class Cutter {
 public:
  Cutter(Block& block, const Tokenizer& tokenizer) : block_(block), tokenizer_(tokenizer) {}

  void add(const BlockDocument& given) {
    const uint32_t end = tokenizer_.end_of_document();
    open_ = !given.begins && block_.id_before != static_cast<int64_t>(end);
    const size_t last = given.first_token + given.tokens;
    for (size_t at = given.first_token; at < last;) {
      size_t stop = at;
      while (stop < last && block_.ids[stop] != end) ++stop;
      const bool ended = stop < last;
      take(at, stop, ended || given.ends);
      at = stop + (ended ? 1 : 0);
    }
  }
  void finish() {
    for (size_t i = 0; i < found_.size(); ++i) {
      const size_t stop = i + 1 < places_.size() ? places_[i + 1] : block_.texts.size();
      found_[i].text = std::string_view(block_.texts).substr(places_[i], stop - places_[i]);
    }
    block_.documents = std::move(found_);
  }

 private:
  void take(size_t begin, size_t end, bool ends) {
    if (begin == end && !open_) {
      ++block_.empty;
      return;
    }
    places_.push_back(block_.texts.size());
    const std::unique_ptr<TokenDecoder> decoder = tokenizer_.decoder();
    for (size_t i = begin; i < end; ++i) decoder->push(block_.ids[i], block_.texts);
    decoder->finish(block_.texts);
    BlockDocument& document = found_.emplace_back();
    document.begins = !open_;
    document.ends = ends;
    document.first_token = begin;
    document.tokens = end - begin;
    open_ = !ends;
  }

  Block& block_;
  const Tokenizer& tokenizer_;
  std::vector<BlockDocument> found_;
  std::vector<size_t> places_;
  bool open_ = false;
};

}  // namespace

std::unique_ptr<BlockReader> open_megatron_blocks(const InputFile& file) {
  return std::make_unique<MegatronBlocks>(file.path);
}

void parse_megatron_block(Block& block, const InputFile& file, const Tokenizer& tokenizer) {
  const uint64_t width = width_of(block.token_type), count = block.bytes.size() / width;
  block.ids.resize(count);
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t id = load_id(block.token_type, block.bytes.data() + i * width);
    if (id < 0 || id >= static_cast<int64_t>(tokenizer.vocabulary()))
      throw Error::make(ExitCode::bad_data,
                        "{}: token {} (byte {}) has id {}, wanted below {}: it "
                        "was made with another tokenizer than {}",
                        file.path.string(), block.first_token + i, (block.first_token + i) * width, id,
                        tokenizer.vocabulary(), tokenizer.name());
    block.ids[i] = static_cast<uint32_t>(id);
  }
  block.bytes = {};
  Cutter cutter(block, tokenizer);
  for (const BlockDocument& document : block.documents) cutter.add(document);
  cutter.finish();
}

}  // namespace capstan
