#include "io/document_reader.h"

#include <boost/json.hpp>
#include <cstring>

#include "core/error.h"
#include "io/document_reader_bytes.h"

namespace capstan {
namespace json = boost::json;
namespace {

constexpr size_t kLongestLine = size_t{256} << 20;

/// Where to cut a piece from a longer text: after its last line end near the limit, else between two characters.
size_t cut_place(std::string_view text, size_t limit) {
  constexpr size_t kNear = 4096;
  const size_t line = text.rfind('\n', limit - 1);
  if (line != std::string_view::npos && line + kNear > limit) return line + 1;
  size_t at = limit;
  while (at > limit - 4 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

/// A window on a ByteSource that grows at its end and is consumed at its front.
class Window {
 public:
  explicit Window(const std::filesystem::path& path) : source_(open_byte_source(path)) {}
  /// Makes at least `size` bytes visible, fewer only at the end of the file.
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
    if (buffer_.size() - end_ < kRead) buffer_.resize(std::max(end_ + kRead, 2 * end_));
  }

  std::unique_ptr<ByteSource> source_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
  bool ended_ = false;
};

}  // namespace

/// next() may give a document without text (begins and ends, empty): the reader counts and drops it.
class DocumentReader::Format {
 public:
  virtual ~Format() = default;
  virtual bool next(DocumentPiece& piece) = 0;
  virtual uint64_t consumed() const = 0;
};

namespace {

class WholeText final : public DocumentReader::Format {
 public:
  explicit WholeText(const std::filesystem::path& path) : window_(path) {}
  bool next(DocumentPiece& piece) override {
    if (done_) return false;
    window_.consume(given_);
    window_.fill(kLargestPiece + 1);
    const std::string_view text = window_.view();
    done_ = text.size() <= kLargestPiece;
    given_ = done_ ? text.size() : cut_place(text, kLargestPiece);
    piece = {text.substr(0, given_), begins_, done_};
    begins_ = false;
    return true;
  }
  uint64_t consumed() const override { return window_.consumed(); }

 private:
  Window window_;
  size_t given_ = 0;
  bool begins_ = true, done_ = false;
};

/// Documents end at blank lines; the line ends around them belong to none.
class BlankSeparated final : public DocumentReader::Format {
 public:
  explicit BlankSeparated(const std::filesystem::path& path) : window_(path) {}
  bool next(DocumentPiece& piece) override {
    window_.consume(std::exchange(given_, 0));
    if (begins_) skip_line_ends();
    window_.fill(kLargestPiece + kSeparator);
    const std::string_view text = window_.view();
    if (text.empty()) return false;
    size_t end = separator(text);
    const bool last = end == text.size() && window_.ended();
    if (last) end = without_line_end(text);
    const bool ends = end <= kLargestPiece && (last || end < text.size());
    const size_t length = ends ? end : cut_place(text, kLargestPiece);
    given_ = ends && last ? text.size() : length;
    piece = {text.substr(0, length), begins_, ends};
    begins_ = ends;
    return true;
  }
  uint64_t consumed() const override { return window_.consumed(); }

 private:
  static constexpr size_t kSeparator = 4;

  void skip_line_ends() {
    for (;;) {
      window_.fill(1);
      const std::string_view text = window_.view();
      const size_t first = text.find_first_not_of("\r\n");
      window_.consume(std::min(first, text.size()));
      if (first != std::string_view::npos || text.empty()) return;
    }
  }
  /// Where the text before the first blank line ends, or text.size().
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

  Window window_;
  size_t given_ = 0;
  bool begins_ = true;
};

class JsonLines final : public DocumentReader::Format {
 public:
  JsonLines(const std::filesystem::path& path, std::string field)
      : path_(path), field_(std::move(field)), window_(path) {}
  bool next(DocumentPiece& piece) override {
    const bool begins = at_ == text_.size();
    if (begins && !next_document()) return false;
    const std::string_view rest = std::string_view(text_).substr(at_);
    const size_t length = rest.size() <= kLargestPiece ? rest.size() : cut_place(rest, kLargestPiece);
    at_ += length;
    piece = {rest.substr(0, length), begins, at_ == text_.size()};
    return true;
  }
  uint64_t consumed() const override { return window_.consumed(); }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error::make(ExitCode::bad_data, "{}:{}: {}", path_.string(), line_, why);
  }
  /// The next line, without its end, or false.
  bool next_line(std::string_view& line) {
    window_.consume(std::exchange(given_, 0));
    ++line_;
    for (size_t searched = 0, wanted = 1;; wanted = 2 * searched) {
      window_.fill(wanted);
      const std::string_view text = window_.view();
      const size_t end = text.find('\n', searched);
      if (end == std::string_view::npos && !window_.ended()) {
        if (text.size() > kLongestLine) refuse(fmt::format("the line is longer than {} bytes", kLongestLine));
        searched = text.size();
        continue;
      }
      if (text.empty()) return false;
      line = text.substr(0, end);
      given_ = std::min(line.size() + 1, text.size());
      return true;
    }
  }
  bool next_document() {
    std::string_view line;
    do {
      if (!next_line(line)) return false;
    } while (line.find_first_not_of(" \t\r") == std::string_view::npos);
    json::monotonic_resource memory;
    json::error_code error;
    const json::value value = json::parse(json::string_view(line.data(), line.size()), error, &memory);
    if (error) refuse("not valid JSON: " + error.message());
    if (!value.is_object()) refuse("wanted an object {...} on every line");
    const json::value* found = value.as_object().if_contains(json::string_view(field_.data(), field_.size()));
    if (!found) refuse("wanted the field \"" + field_ + "\", it is not there; name another with --field");
    if (!found->is_string()) refuse("wanted the field \"" + field_ + "\" to be a string");
    text_.assign(found->as_string().data(), found->as_string().size());
    at_ = 0;
    return true;
  }

  std::filesystem::path path_;
  std::string field_;
  Window window_;
  size_t given_ = 0;
  uint64_t line_ = 0;
  std::string text_;
  size_t at_ = 0;
};

std::unique_ptr<DocumentReader::Format> open_format(const InputFile& file, const DocumentOptions& options) {
  if (file.json_lines) return std::make_unique<JsonLines>(file.path, options.field);
  if (options.split == DocumentSplit::blank) return std::make_unique<BlankSeparated>(file.path);
  return std::make_unique<WholeText>(file.path);
}

}  // namespace

DocumentReader::DocumentReader(std::vector<InputFile> files, DocumentOptions options)
    : files_(std::move(files)), options_(std::move(options)) {}
DocumentReader::~DocumentReader() = default;

bool DocumentReader::next(DocumentPiece& piece) {
  for (;;) {
    if (!current_ && next_file_ == files_.size()) return false;
    if (!current_) current_ = open_format(files_[next_file_++], options_);
    if (current_->next(piece)) {
      if (!piece.text.empty() || !piece.begins) return true;
      ++empty_;  // begins and ends without a character
      continue;
    }
    finished_bytes_ += current_->consumed();
    current_.reset();
  }
}

uint64_t DocumentReader::consumed() const { return finished_bytes_ + (current_ ? current_->consumed() : 0); }

}  // namespace capstan
