#pragma once
// DecoderChain: a tokenizer's list of decoders as stages through which pieces stream. What comes out is what Hugging
// Face's decoders make of the whole list, with one difference: bytes that are no UTF-8 come out as they are instead of
// as U+FFFD, so nothing is lost (Utf8Repair mends text that is for people). A stage holds back what later pieces can
// still change; an expression that sees the whole text waits for its end.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/spec.h"

namespace capstan {

class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void push(std::string_view piece) = 0;
  virtual void finish() { next_->finish(); }
  void set_next(DecodeStage* next) { next_ = next; }

 protected:
  DecodeStage* next_ = nullptr;
};

class DecoderChain {
 public:
  /// Nothing: pieces are joined by spaces. Error bad_data naming `where` for an expression that does not compile.
  DecoderChain(const std::optional<std::vector<DecoderSpec>>& parts, const std::string& where);
  ~DecoderChain();
  DecoderChain(const DecoderChain&) = delete;
  DecoderChain& operator=(const DecoderChain&) = delete;

  void push(std::string_view piece, std::string& out);
  /// Appends what was held back and begins anew.
  void finish(std::string& out);

 private:
  void add(std::unique_ptr<DecodeStage> stage) { stages_.push_back(std::move(stage)); }
  std::vector<std::unique_ptr<DecodeStage>> stages_;
  std::string* out_ = nullptr;
};

}  // namespace capstan
