#include "io/corpus/block_reader.h"

#include <functional>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "io/corpus/byte_window.h"
#include "io/corpus/megatron_reader.h"

namespace capstan {
namespace {

std::unique_ptr<ByteSource> open_source(const InputFile& file, Reading reading) {
  return file.standard_input ? open_byte_source(file.standard_input, reading) : open_byte_source(file.path);
}

/// Views into block.bytes, made once that will not move any more.
void set_documents(Block& block, const std::vector<std::pair<size_t, size_t>>& places) {
  for (const auto& [begin, end] : places) {
    block.documents.emplace_back();
    block.documents.back().text = std::string_view(block.bytes).substr(begin, end - begin);
  }
}

/// The next stretch of the open document of a text. `rest(n)` shows the rest of the document, n bytes of it at least
/// when there are as many, and whether that is all.
using Rest = std::function<std::pair<std::string_view, bool>(size_t bytes)>;

size_t take_stretch(Block& block, const Rest& rest, const CutRule& may_cut) {
  auto [text, all] = rest(kCutLook);
  Cut cut{text.size(), false};
  if (!all || text.size() > kWholeDocument) {
    cut.at = early_cut(text, may_cut);
    if (cut.at == 0) {
      std::tie(text, all) = rest(kLongestPiece + 4);
      cut = place_of_cut(text, may_cut);
    }
  }
  block.bytes.assign(text.substr(0, cut.at));
  block.forced_cuts += cut.forced;
  set_documents(block, {{0, block.bytes.size()}});
  block.documents.back().ends = all && cut.at == text.size();
  return cut.at;
}

class WholeText final : public BlockReader {
 public:
  WholeText(const InputFile& file, const BlockOptions& options)
      : file_(file), options_(options), window_(open_source(file, options.reading)) {}

  bool next(Block& block) override {
    if (done_) return false;
    const bool begins = std::exchange(begins_, false);
    const auto rest = [this](size_t bytes) {
      window_.fill(bytes + 1);
      return std::pair(window_.view(), window_.ended());
    };
    window_.consume(take_stretch(block, rest, options_.may_cut));
    BlockDocument& document = block.documents.back();
    document.begins = begins;
    done_ = document.ends;
    if (begins && !done_ && options_.digests && !file_.standard_input) {
      document.digest = digest_of_all();
      document.has_digest = true;
    }
    return true;
  }
  uint64_t consumed() const override { return window_.consumed(); }

 private:
  /// Whether a document is a duplicate must be known where it begins, so a long one is read once more beforehand.
  Digest128 digest_of_all() const {
    const std::unique_ptr<ByteSource> source = open_source(file_, options_.reading);
    std::vector<char> buffer(kBlockBytes);
    DigestStream digest;
    while (const size_t got = source->read(buffer.data(), buffer.size())) digest.update(buffer.data(), got);
    return digest.value();
  }

  const InputFile file_;
  const BlockOptions options_;
  ByteWindow window_;
  bool begins_ = true, done_ = false;
};

/// Documents end at blank lines; the line ends around them belong to none.
class BlankSeparated final : public BlockReader {
 public:
  BlankSeparated(const InputFile& file, const BlockOptions& options)
      : may_cut_(options.may_cut), window_(open_source(file, options.reading)) {}

  bool next(Block& block) override {
    if (open_) return next_stretch(block, false);
    std::vector<std::pair<size_t, size_t>> places;
    while (block.bytes.size() < kBlockBytes) {
      skip_line_ends();
      window_.fill(kWholeDocument + kSeparator);
      const std::string_view text = window_.view();
      if (text.empty()) break;
      const size_t end = end_of_document(text);
      if (end > kWholeDocument) {
        if (places.empty()) return next_stretch(block, true);
        break;
      }
      places.emplace_back(block.bytes.size(), block.bytes.size() + end);
      block.bytes.append(text.substr(0, end));
      window_.consume(end);
    }
    set_documents(block, places);
    return !places.empty();
  }
  uint64_t consumed() const override { return window_.consumed(); }

 private:
  static constexpr size_t kSeparator = 4;

  bool next_stretch(Block& block, bool begins) {
    const auto rest = [this](size_t bytes) {
      window_.fill(bytes + kSeparator);
      const std::string_view text = window_.view();
      const size_t end = end_of_document(text);
      return std::pair(text.substr(0, end), end <= bytes);
    };
    window_.consume(take_stretch(block, rest, may_cut_));
    block.documents.back().begins = begins;
    open_ = !block.documents.back().ends;
    return true;
  }
  /// Where the text before the first blank line ends. More than what a document may have when it is not in sight.
  size_t end_of_document(std::string_view text) const {
    const size_t end = separator(text);
    return end == text.size() && window_.ended() ? without_line_end(text) : end;
  }
  void skip_line_ends() {
    for (;;) {
      window_.fill(1);
      const std::string_view text = window_.view();
      const size_t first = text.find_first_not_of("\r\n");
      window_.consume(std::min(first, text.size()));
      if (first != std::string_view::npos || text.empty()) return;
    }
  }
  static size_t separator(std::string_view text) {
    for (size_t at = text.find('\n'); at != std::string_view::npos; at = text.find('\n', at + 1)) {
      const std::string_view rest = text.substr(at + 1);
      if (rest.starts_with("\n") || rest.starts_with("\r\n")) return at > 0 && text[at - 1] == '\r' ? at - 1 : at;
    }
    return text.size();
  }
  static size_t without_line_end(std::string_view text) {
    const size_t last = text.find_last_not_of("\r\n");
    return last == std::string_view::npos ? 0 : last + 1;
  }

  const CutRule may_cut_;
  ByteWindow window_;
  bool open_ = false;
};

class JsonLines final : public BlockReader {
 public:
  JsonLines(const InputFile& file, const BlockOptions& options) : window_(open_source(file, options.reading)) {}

  bool next(Block& block) override {
    block.first_line = line_;
    size_t wanted = kBlockBytes;
    for (;;) {
      window_.fill(wanted);
      const std::string_view text = window_.view();
      if (text.empty()) return false;
      const bool all = window_.ended() && text.size() <= wanted;
      const size_t end = all ? text.size() : text.substr(0, wanted).rfind('\n') + 1;
      if (end > 0) return take(block, text.substr(0, end));
      if (wanted == kLongestLine) return skip_line(block);
      wanted = std::min(2 * wanted, kLongestLine);
    }
  }
  uint64_t consumed() const override { return window_.consumed(); }

 private:
  bool take(Block& block, std::string_view lines) {
    block.bytes.assign(lines);
    window_.consume(lines.size());
    line_ += static_cast<uint64_t>(std::count(block.bytes.begin(), block.bytes.end(), '\n'));
    return true;
  }
  bool skip_line(Block& block) {
    block.bad.push_back({0, line_++, fmt::format("the line is longer than {} bytes", kLongestLine)});
    for (;;) {
      window_.fill(1);
      const std::string_view text = window_.view();
      const size_t end = text.find('\n');
      window_.consume(end == std::string_view::npos ? text.size() : end + 1);
      if (end != std::string_view::npos || text.empty()) return true;
    }
  }

  ByteWindow window_;
  uint64_t line_ = 1;
};

}  // namespace

std::unique_ptr<BlockReader> open_block_reader(const InputFile& file, const BlockOptions& options) {
  switch (file.format) {
    case InputFormat::jsonl:
      return std::make_unique<JsonLines>(file, options);
    case InputFormat::megatron:
      return open_megatron_blocks(file);
    case InputFormat::text:
      break;
  }
  if (options.split == DocumentSplit::blank) return std::make_unique<BlankSeparated>(file, options);
  return std::make_unique<WholeText>(file, options);
}

}  // namespace capstan
