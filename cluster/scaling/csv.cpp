#include "cluster/scaling/csv.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "core/error.h"

namespace capstan::scaling {
namespace {

constexpr size_t kMostBytes = 64u << 20, kMostColumns = 4096, kMostField = 1u << 20;

class Parser {
 public:
  Parser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  /// The next record, or false at the end. An empty line is an error unless nothing but empty lines follows.
  bool record(std::vector<std::string>& fields) {
    fields.clear();
    if (rest_is_blank()) return false;
    record_line_ = line_;
    for (;;) {
      fields.push_back(field());
      if (fields.size() > kMostColumns) fail("more than {} columns", kMostColumns);
      if (at_ < text_.size() && text_[at_] == ',') {
        ++at_;
        continue;
      }
      end_of_line();
      return true;
    }
  }
  size_t record_line() const { return record_line_; }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error::make(ExitCode::bad_data, "{}:{}: {}", name_, line_, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  bool rest_is_blank() const { return text_.find_first_not_of("\r\n", at_) == std::string_view::npos; }

  void end_of_line() {
    if (at_ < text_.size() && text_[at_] == '\r') ++at_;
    if (at_ < text_.size() && text_[at_] != '\n') fail("a carriage return that no line feed follows");
    if (at_ < text_.size()) ++at_;
    ++line_;
  }

  std::string field() {
    std::string out = at_ < text_.size() && text_[at_] == '"' ? quoted() : bare();
    if (out.size() > kMostField) fail("a field of {} bytes; the most is {}", out.size(), kMostField);
    if (out.find('\0') != std::string::npos) fail("a zero byte: this is not a text file");
    return out;
  }

  std::string bare() {
    const size_t end = std::min(text_.find_first_of(",\r\n", at_), text_.size());
    std::string out(text_.substr(at_, end - at_));
    if (out.find('"') != std::string::npos) fail("a quote inside a field that does not begin with one: {}", clip(out));
    at_ = end;
    return out;
  }

  std::string quoted() {
    std::string out;
    const size_t opened = line_;
    for (++at_;; ++at_) {
      if (at_ >= text_.size()) fail("the quote opened on line {} is never closed", opened);
      const char c = text_[at_];
      if (c == '\n') ++line_;
      if (c != '"') {
        out += c;
      } else if (at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
        out += '"';
        ++at_;
      } else {
        break;
      }
    }
    ++at_;
    if (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\r' && text_[at_] != '\n')
      fail("text follows a closing quote: {}", clip(std::string(text_.substr(at_, 40))));
    return out;
  }

  static std::string clip(const std::string& text) {
    std::string out;
    for (const char c : text.substr(0, 40)) out += c >= ' ' && c != 127 ? c : '?';
    return out;
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0, line_ = 1, record_line_ = 1;
};

}  // namespace

Csv parse_csv(std::string_view text, const std::string& name) {
  if (text.size() > kMostBytes)
    throw Error::make(ExitCode::bad_data, "{} has {} bytes; a table of at most {} was expected", name, text.size(),
                      kMostBytes);
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
  Parser parser(text, name);
  Csv csv;
  if (!parser.record(csv.header)) throw Error::make(ExitCode::bad_data, "{} is empty; wanted a header line", name);
  std::vector<std::string> row;
  while (parser.record(row)) {
    if (row.size() != csv.header.size())
      throw Error::make(ExitCode::bad_data, "{}:{}: {} fields where the header has {}", name, parser.record_line(),
                        row.size(), csv.header.size());
    csv.rows.push_back(row);
    csv.lines.push_back(parser.record_line());
  }
  return csv;
}

Csv read_csv(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw Error::make(ExitCode::missing_input, "cannot open table {}: {}", path, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  size_t count;
  while ((count = std::fread(buffer, 1, sizeof buffer, file.get())) > 0) {
    text.append(buffer, count);
    if (text.size() > kMostBytes) break;
  }
  if (std::ferror(file.get()))
    throw Error::make(ExitCode::io_error, "cannot read table {}: {}", path, std::strerror(errno));
  return parse_csv(text, path);
}

}  // namespace capstan::scaling
