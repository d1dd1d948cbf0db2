#include "io/corpus/document_parser.h"

#include <boost/json.hpp>
#include <cstring>

#include "core/error.h"
#include "io/corpus/digest.h"
#include "io/corpus/megatron_reader.h"
#include "io/json_events.h"

namespace capstan {
namespace json = boost::json;
namespace {

/// A field as the user names it: a member of that very name, or a.b for the member b of the object a.
class FieldPath {
 public:
  explicit FieldPath(const std::string& name) : name_(name) {
    for (size_t begin = 0; begin <= name.size();) {
      const size_t end = std::min(name.find('.', begin), name.size());
      parts_.push_back(name.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  const std::string& name() const { return name_; }
  /// Null when it is not there.
  const json::value* find(const json::object& object) const {
    if (const json::value* found = object.if_contains(name_)) return found;
    const json::object* at = &object;
    const json::value* found = nullptr;
    for (const std::string& part : parts_) {
      found = at ? at->if_contains(part) : nullptr;
      if (!found) return nullptr;
      at = found->if_object();
    }
    return found;
  }

 private:
  std::string name_;
  std::vector<std::string> parts_;
};

}  // namespace

std::string place_of(const InputFile& file, const BadLine& line) {
  return fmt::format("{}:{}: {}", file.path.string(), line.line, line.why);
}

Error bad_line_error(const InputFile& file, const BadLine& line, uint64_t count, uint64_t allowed) {
  return Error(ExitCode::bad_data, allowed == 0 ? place_of(file, line) + " (--skip-bad N leaves out up to N such lines)"
                                                : fmt::format("{} (bad line {}: --skip-bad {} allows no more)",
                                                              place_of(file, line), count, allowed));
}

class DocumentParser::Lines {
 public:
  explicit Lines(const DocumentOptions& options) : field_(options.field) {
    for (const std::string& name : options.metadata) metadata_.emplace_back(name);
    json::parse_options limits;
    limits.max_depth = 256;
    parser_ = std::make_unique<json::parser>(json::storage_ptr(), limits, memory_.data(), memory_.size());
  }

  void parse(Block& block) {
    block.texts.reserve(block.bytes.size());  // text is never longer than its JSON, so views
                                              // into it stay valid
    uint64_t line = block.first_line;
    const std::string_view all = block.bytes;
    for (size_t begin = 0; begin < all.size(); ++line) {
      const size_t end = std::min(all.find('\n', begin), all.size());
      const std::string_view text = all.substr(begin, end - begin);
      begin = end + 1;
      if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const std::string why = parse_line(text, block);
      if (!why.empty()) block.bad.push_back({block.documents.size(), line, why});
    }
    block.bytes = {};
  }

  std::string metadata_line(const json::object* object) const {
    std::string line = "{";
    for (const FieldPath& field : metadata_) {
      const json::value* found = object ? field.find(*object) : nullptr;
      line += fmt::format("{}{}: {}", line.size() > 1 ? ", " : "", json_quote(field.name()),
                          found ? json::serialize(*found) : "null");
    }
    return line + "}";
  }
  bool keeps_metadata() const { return !metadata_.empty(); }

 private:
  /// Appends a document, or says why not.
  std::string parse_line(std::string_view text, Block& block) {
    json::error_code error;
    struct Release {  // a parser that met an error still holds values in the arena
      json::parser& parser;
      json::monotonic_resource& arena;
      ~Release() {
        parser.reset();
        arena.release();
      }
    } const release{*parser_, arena_};
    parser_->reset(&arena_);
    parser_->write(text.data(), text.size(), error);
    if (error) return "not valid JSON: " + error.message();
    const json::value value = parser_->release();
    const json::object* object = value.if_object();
    if (!object) return "wanted an object {...} on every line";
    const json::value* found = field_.find(*object);
    if (!found) return "wanted the field \"" + field_.name() + "\", it is not there; name another with --field";
    const json::string* content = found->if_string();
    if (!content) return "wanted the field \"" + field_.name() + "\" to be a string";
    const size_t place = block.texts.size();
    block.texts.append(content->data(), content->size());
    BlockDocument& document = block.documents.emplace_back();
    document.text = std::string_view(block.texts).substr(place);
    if (keeps_metadata()) document.metadata = metadata_line(object);
    return "";
  }

  FieldPath field_;
  std::vector<FieldPath> metadata_;
  std::vector<unsigned char> memory_ = std::vector<unsigned char>(4096), space_ = std::vector<unsigned char>(1 << 20);
  json::monotonic_resource arena_{space_.data(), space_.size()};
  std::unique_ptr<json::parser> parser_;
};

DocumentParser::DocumentParser(const std::vector<InputFile>& files, const DocumentOptions& options,
                               const Tokenizer* tokenizer, bool digests)
    : files_(files), tokenizer_(tokenizer), digests_(digests), lines_(std::make_unique<Lines>(options)) {
  if (lines_->keeps_metadata()) no_metadata_ = lines_->metadata_line(nullptr);
}

DocumentParser::~DocumentParser() = default;

void DocumentParser::parse(Block& block) {
  const InputFile& file = files_[block.file];
  if (file.format == InputFormat::jsonl) lines_->parse(block);
  if (file.format == InputFormat::megatron) {
    CAPSTAN_CHECK(tokenizer_, "{}: Megatron tokens without a tokenizer", file.path.string());
    parse_megatron_block(block, file, *tokenizer_);
  }
  finish(block);
}

void DocumentParser::finish(Block& block) const {
  const auto empty = [](const BlockDocument& document) {
    return document.begins && document.ends && document.text.empty() && document.tokens == 0;
  };
  size_t kept = 0;
  for (size_t i = 0; i < block.documents.size(); ++i) {
    BlockDocument& document = block.documents[i];
    if (empty(document)) {
      ++block.empty;
      for (BadLine& line : block.bad) line.before -= line.before > kept;
      continue;
    }
    if (document.begins) document.hash = xxh3_64(document.text.substr(0, kHashedBytes));
    if (digests_ && document.begins && document.ends) {
      document.digest = digest128_of(document.text);
      document.has_digest = true;
    }
    if (document.begins && document.metadata.empty()) document.metadata = no_metadata_;
    if (kept != i) block.documents[kept] = std::move(document);
    ++kept;
  }
  block.documents.resize(kept);
}

}  // namespace capstan
