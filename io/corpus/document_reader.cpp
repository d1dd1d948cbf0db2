#include "io/corpus/document_reader.h"

#include "core/error.h"

namespace capstan {

DocumentReader::DocumentReader(std::vector<InputFile> files, DocumentOptions options, DocumentReading reading)
    : files_(std::move(files)),
      reading_(std::move(reading)),
      block_options_{options.split, reading_.may_cut, reading_.reading, reading_.digests},
      parser_(files_, options, reading_.tokenizer, reading_.digests) {
  if (!block_options_.may_cut) block_options_.may_cut = [](std::string_view, size_t) { return true; };
}

DocumentReader::~DocumentReader() = default;

bool DocumentReader::next(BlockDocument& document) {
  while (next_document_ == block_.documents.size())
    if (!next_block()) return false;
  document = block_.documents[next_document_++];
  return true;
}

void DocumentReader::skip_file() {
  current_.reset();
  next_document_ = block_.documents.size();
}

bool DocumentReader::next_block() {
  for (;;) {
    if (!current_ && next_file_ == files_.size()) return false;
    if (!current_) current_ = open_block_reader(files_[next_file_++], block_options_);
    block_ = {};
    next_document_ = 0;
    block_.file = next_file_ - 1;
    if (current_->next(block_)) break;
    current_.reset();
  }
  parser_.parse(block_);
  empty_ += block_.empty;
  check_bad_lines();
  return true;
}

void DocumentReader::check_bad_lines() {
  for (const BadLine& line : block_.bad)
    if (++bad_ > reading_.skip_bad) throw bad_line_error(files_[block_.file], line, bad_, reading_.skip_bad);
}

}  // namespace capstan
