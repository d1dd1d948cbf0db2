#include "io/tokenizer/decoder_chain.h"

#include <algorithm>
#include <charconv>

#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/regular_expression.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  if (what.empty()) return;
  size_t at = text.find(what);
  if (at == text.npos) return;
  std::string out;
  size_t done = 0;
  for (; at != text.npos; at = text.find(what, done)) {
    out.append(text, done, at - done).append(by);
    done = at + what.size();
  }
  text = out.append(text, done);
}

/// What the decoders of WordPiece and CTC do to spaces and signs, in this order.
void clean_up(std::string& text) {
  constexpr std::pair<const char*, const char*> rules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [what, by] : rules) replace_all(text, what, by);
}

class EndStage final : public DecodeStage {
 public:
  explicit EndStage(std::string** out) : out_(out) {}
  void push(std::string_view piece) override { (*out_)->append(piece); }
  void finish() override {}

 private:
  std::string** out_;
};

class JoinStage final : public DecodeStage {
 public:
  void push(std::string_view piece) override {
    if (!first_) next_->push(" ");
    first_ = false;
    next_->push(piece);
  }
  void finish() override {
    first_ = true;
    next_->finish();
  }

 private:
  bool first_ = true;
};

class ByteLevelStage final : public DecodeStage {
 public:
  void push(std::string_view piece) override {
    const std::optional<std::string> bytes = from_byte_symbols(piece);
    next_->push(bytes ? std::string_view(*bytes) : piece);
  }
};

class MetaspaceStage final : public DecodeStage {
 public:
  explicit MetaspaceStage(const Metaspace& part) : part_(part) {}
  void push(std::string_view piece) override {
    text_ = piece;
    replace_all(text_, part_.replacement, first_ && part_.scheme != Metaspace::Scheme::never ? "" : " ");
    first_ = false;
    next_->push(text_);
  }
  void finish() override {
    first_ = true;
    next_->finish();
  }

 private:
  Metaspace part_;
  std::string text_;
  bool first_ = true;
};

class WordPieceStage final : public DecodeStage {
 public:
  explicit WordPieceStage(WordPieceDecoder part) : part_(std::move(part)) {}
  void push(std::string_view piece) override {
    if (first_)
      text_ = piece;
    else if (piece.starts_with(part_.prefix))
      text_ = piece.substr(part_.prefix.size());
    else
      text_.assign(" ").append(piece);
    first_ = false;
    if (part_.cleanup) clean_up(text_);
    next_->push(text_);
  }
  void finish() override {
    first_ = true;
    next_->finish();
  }

 private:
  WordPieceDecoder part_;
  std::string text_;
  bool first_ = true;
};

/// The last piece is treated differently, so one is held back.
class BpeStage final : public DecodeStage {
 public:
  explicit BpeStage(BpeDecoder part) : part_(std::move(part)) {}
  void push(std::string_view piece) override {
    release(" ");
    held_ = piece;
  }
  void finish() override {
    release("");
    next_->finish();
  }

 private:
  void release(std::string_view by) {
    if (!held_) return;
    replace_all(*held_, part_.suffix, by);
    next_->push(*held_);
    held_.reset();
  }
  BpeDecoder part_;
  std::optional<std::string> held_;
};

class ByteFallbackStage final : public DecodeStage {
 public:
  void push(std::string_view piece) override {
    unsigned value = 0;
    if (piece.size() == 6 && piece.starts_with("<0x") && piece[5] == '>') {
      const auto [end, problem] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
      if (problem == std::errc() && end == piece.data() + 5) {
        const char byte = static_cast<char>(value);
        return next_->push({&byte, 1});
      }
    }
    next_->push(piece);
  }
};

class ReplaceStage final : public DecodeStage {
 public:
  ReplaceStage(const Replace& part, const std::string& where) : part_(part) {
    if (part.pattern.regex || part.pattern.text.empty())
      expression_ = std::make_unique<RegularExpression>(part.pattern.text, where);
  }
  void push(std::string_view piece) override {
    if (!expression_) {
      text_ = piece;
      replace_all(text_, part_.pattern.text, part_.content);
      return next_->push(text_);
    }
    matches_.clear();
    if (!piece.empty()) expression_->find_all(piece, matches_);
    text_.clear();
    size_t done = 0;
    for (const TextRange& match : matches_) {
      text_.append(piece.substr(done, match.begin - done)).append(part_.content);
      done = match.end;
    }
    next_->push(text_.append(piece.substr(done)));
  }

 private:
  Replace part_;
  std::unique_ptr<RegularExpression> expression_;
  std::vector<TextRange> matches_;
  std::string text_;
};

class CtcStage final : public DecodeStage {
 public:
  explicit CtcStage(CtcDecoder part) : part_(std::move(part)) {}
  void push(std::string_view piece) override {
    if (before_ == piece) return;
    before_ = piece;
    std::string text(piece);
    replace_all(text, part_.pad_token, "");
    if (part_.cleanup) {
      clean_up(text);
      replace_all(text, part_.word_delimiter_token, " ");
    }
    if (!text.empty()) next_->push(text);
  }
  void finish() override {
    before_.reset();
    next_->finish();
  }

 private:
  CtcDecoder part_;
  std::optional<std::string> before_;
};

size_t count_leading(std::string_view text, std::string_view content, uint64_t most) {
  size_t count = 0;
  while (count < most && text.substr(count * content.size()).starts_with(content)) ++count;
  return count;
}

class StripStage final : public DecodeStage {
 public:
  explicit StripStage(StripDecoder part) : part_(std::move(part)) {}
  void push(std::string_view piece) override {
    piece.remove_prefix(count_leading(piece, part_.content, part_.start) * part_.content.size());
    for (uint64_t i = 0; i < part_.stop && piece.ends_with(part_.content); ++i)
      piece.remove_suffix(part_.content.size());
    next_->push(piece);
  }

 private:
  StripDecoder part_;
};

/// Strip for one text that comes in fragments: holds back as many characters as it may drop at the end.
class FusedStripStage final : public DecodeStage {
 public:
  explicit FusedStripStage(StripDecoder part) : part_(std::move(part)), left_(part_.start) {}
  void push(std::string_view piece) override {
    held_ += piece;
    if (!begin()) return;
    const size_t size = part_.content.size();
    size_t keep = std::min<size_t>(size - 1, held_.size());  // the beginning of a character to drop
    if (part_.stop > 0) {
      size_t run = 0;
      while (run < part_.stop && std::string_view(held_).substr(0, held_.size() - run * size).ends_with(part_.content))
        ++run;
      keep = std::max(keep, run * size + (size - 1));
    } else {
      keep = 0;
    }
    if (held_.size() <= keep) return;
    next_->push(std::string_view(held_).substr(0, held_.size() - keep));
    held_.erase(0, held_.size() - keep);
  }
  void finish() override {
    std::string_view rest = held_;
    for (uint64_t i = 0; i < part_.stop && rest.ends_with(part_.content); ++i) rest.remove_suffix(part_.content.size());
    next_->push(rest);
    held_.clear();
    left_ = part_.start;
    next_->finish();
  }

 private:
  /// Drops characters at the beginning; false while it cannot be told whether there are more.
  bool begin() {
    while (left_ > 0) {
      if (held_.starts_with(part_.content)) {
        held_.erase(0, part_.content.size());
        --left_;
      } else if (held_.size() < part_.content.size() && part_.content.starts_with(held_)) {
        return false;
      } else {
        left_ = 0;
      }
    }
    return true;
  }
  StripDecoder part_;
  uint64_t left_;
  std::string held_;
};

/// One text out of all pieces, at the end.
class GatherStage final : public DecodeStage {
 public:
  void push(std::string_view piece) override { text_ += piece; }
  void finish() override {
    next_->push(text_);
    text_.clear();
    next_->finish();
  }

 private:
  std::string text_;
};

std::unique_ptr<DecodeStage> stage_of(const DecoderSpec& part, const std::string& where) {
  if (std::get_if<ByteLevel>(&part)) return std::make_unique<ByteLevelStage>();
  if (const auto* space = std::get_if<Metaspace>(&part)) return std::make_unique<MetaspaceStage>(*space);
  if (const auto* pieces = std::get_if<WordPieceDecoder>(&part)) return std::make_unique<WordPieceStage>(*pieces);
  if (const auto* bpe = std::get_if<BpeDecoder>(&part)) return std::make_unique<BpeStage>(*bpe);
  if (std::get_if<ByteFallback>(&part)) return std::make_unique<ByteFallbackStage>();
  if (const auto* strip = std::get_if<StripDecoder>(&part)) return std::make_unique<StripStage>(*strip);
  if (const auto* replace = std::get_if<Replace>(&part)) return std::make_unique<ReplaceStage>(*replace, where);
  if (const auto* ctc = std::get_if<CtcDecoder>(&part)) return std::make_unique<CtcStage>(*ctc);
  return nullptr;  // Fuse
}

}  // namespace

DecoderChain::DecoderChain(const std::optional<std::vector<DecoderSpec>>& parts, const std::string& where) {
  if (!parts) add(std::make_unique<JoinStage>());
  const size_t count = parts ? parts->size() : 0;
  bool fused = false, whole = false;  // one text in fragments; one text at its end
  for (size_t i = 0; i < count; ++i) {
    const DecoderSpec& part = (*parts)[i];
    const auto* strip = std::get_if<StripDecoder>(&part);
    if (fused && !whole && strip != nullptr) {
      add(std::make_unique<FusedStripStage>(*strip));
    } else if (std::unique_ptr<DecodeStage> stage = stage_of(part, where)) {
      if (fused && !whole) {
        add(std::make_unique<GatherStage>());
        whole = true;
      }
      add(std::move(stage));
    }
    if (std::get_if<Fuse>(&part) || std::get_if<ByteLevel>(&part)) fused = true;
  }
  add(std::make_unique<EndStage>(&out_));
  for (size_t i = 0; i + 1 < stages_.size(); ++i) stages_[i]->set_next(stages_[i + 1].get());
}

DecoderChain::~DecoderChain() = default;

void DecoderChain::push(std::string_view piece, std::string& out) {
  out_ = &out;
  stages_.front()->push(piece);
}

void DecoderChain::finish(std::string& out) {
  out_ = &out;
  stages_.front()->finish();
}

}  // namespace capstan
