#include "io/tokenizer/bpe_model.h"

#include <bit>

#include "io/tokenizer/bpe_merger.h"
#include "io/tokenizer/bpe_tables.h"
#include "io/tokenizer/bpe_word_cache.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

class BpeEncoder final : public WordEncoder {
 public:
  explicit BpeEncoder(std::shared_ptr<const BpeTables> tables)
      : tables_(std::move(tables)), merger_(tables_->ranks, tables_->results) {}

  void encode(std::string_view word, std::vector<uint32_t>& tokens) override {
    if (word.empty()) return;
    if (!find(word, tokens)) merge_word(word, tokens);
  }

  void encode_words(std::string_view text, std::span<const uint32_t> ends, std::vector<uint32_t>& tokens) override {
    constexpr size_t kBuffer = 1024;
    uint32_t buffer[kBuffer + WordCache::kMostTokens];
    size_t filled = 0, begin = 0;
    const auto flush = [&] {
      tokens.insert(tokens.end(), buffer, buffer + filled);
      filled = 0;
    };
    for (const uint32_t end : ends) {
      const size_t size = end - begin;
      const char* word = text.data() + begin;
      size_t count = 0;
      if (size - 1 < WordCache::kShortWord)
        count = cache_.find(WordCache::key_of(word, size, text.size() - begin), buffer + filled);
      filled += count;
      if (count == 0 || filled >= kBuffer) flush();
      if (count == 0) encode({word, size}, tokens);
      begin = end;
    }
    flush();
  }

 private:
  bool find(std::string_view word, std::vector<uint32_t>& tokens) const {
    uint32_t found[WordCache::kMostTokens];
    const size_t count = cache_.find(word, found);
    for (size_t i = 0; i < count; ++i) tokens.push_back(found[i]);
    return count > 0;
  }

  void merge_word(std::string_view word, std::vector<uint32_t>& tokens) {
    const size_t before = tokens.size();
    if (const std::optional<uint32_t> whole = tables_->spec.ignore_merges ? tables_->find.find(word) : std::nullopt)
      tokens.push_back(*whole);
    else if (tables_->all_bytes)
      merge_bytes(word, tokens);
    else if (tables_->cuts_characters)
      cut_characters(word, tokens);
    else
      merge_characters(word, tokens);
    cache_.put(word, std::span(tokens).subspan(before));
  }

  void merge_short(std::string_view word, std::vector<uint32_t>& tokens) {
    uint32_t ids[BpeMerger::kScan], ranks[BpeMerger::kScan], before = 0;
    for (size_t i = 0; i < word.size(); ++i) {
      const uint32_t byte = static_cast<unsigned char>(word[i]);
      ids[i] = tables_->byte_ids[byte];
      if (i > 0) ranks[i - 1] = tables_->byte_ranks[before << 8 | byte];
      before = byte;
    }
    merger_.merge(ids, ranks, word.size(), tokens);
  }

  /// Cuts where no piece has the two bytes side by side.
  void merge_bytes(std::string_view word, std::vector<uint32_t>& tokens) {
    if (word.size() <= BpeMerger::kScan) return merge_short(word, tokens);
    for (size_t begin = 0, end = 1; begin < word.size(); begin = end++) {
      const auto joined = [&] {
        return tables_->joined->test(static_cast<unsigned char>(word[end - 1]) << 8 |
                                     static_cast<unsigned char>(word[end]));
      };
      while (end < word.size() && joined()) ++end;
      const std::string_view part = word.substr(begin, end - begin);
      if (part.size() <= BpeMerger::kScan) {
        merge_short(part, tokens);
        continue;
      }
      symbols_.clear();
      for (const char c : part) symbols_.push_back(tables_->byte_ids[static_cast<unsigned char>(c)]);
      merger_.merge(symbols_, tokens);
    }
  }

  /// Cuts likewise between two known characters; what is in between is a word for the cache.
  void cut_characters(std::string_view word, std::vector<uint32_t>& tokens) {
    size_t begin = 0;
    uint32_t before = kNoPiece;
    for (size_t at = 0; at < word.size();) {
      const uint32_t size = character_size(word, at), id = id_of(word.substr(at, size));
      if (before != kNoPiece && id != kNoPiece && tables_->joined_characters.find(before, id) == kNoRank) {
        merge_part(word.substr(begin, at - begin), tokens);
        begin = at;
      }
      before = id;
      at += size;
    }
    if (begin == 0) return merge_characters(word, tokens);
    merge_part(word.substr(begin), tokens);
  }
  void merge_part(std::string_view part, std::vector<uint32_t>& tokens) {
    if (find(part, tokens)) return;
    const size_t before = tokens.size();
    merge_characters(part, tokens);
    cache_.put(part, std::span(tokens).subspan(before));
  }

  uint32_t character_size(std::string_view word, size_t at) const {
    return tables_->spec.byte_level || static_cast<unsigned char>(word[at]) < 0x80 ? 1 : utf8_at(word, at).size;
  }
  uint32_t id_of(std::string_view symbol) const {
    return symbol.size() == 1 ? tables_->byte_ids[static_cast<unsigned char>(symbol[0])]
                              : tables_->find.find(symbol).value_or(kNoPiece);
  }

  void merge_characters(std::string_view word, std::vector<uint32_t>& tokens) {
    symbols_.clear();
    bool pending = false;  // an unknown symbol that waits for its neighbours
    const auto settle = [&] {
      if (pending) symbols_.push_back(*tables_->spec.unknown);
      pending = false;
    };
    for (size_t at = 0; at < word.size();) {
      const uint32_t size = character_size(word, at);
      const std::string_view symbol = with_affixes(word, at, size);
      at += size;
      if (const uint32_t id = id_of(symbol); id != kNoPiece) {
        settle();
        symbols_.push_back(id);
      } else if (!fall_back(symbol) && tables_->spec.unknown) {
        if (!tables_->spec.fuse_unknown) settle();
        pending = true;
      }
    }
    settle();
    merger_.merge(symbols_, tokens);
  }

  /// As the peer has it: an unknown symbol that waits comes after the bytes of the next.
  bool fall_back(std::string_view symbol) {
    if (!tables_->spec.byte_fallback) return false;
    const std::string bytes = tables_->spec.byte_level ? to_byte_symbols(symbol) : std::string(symbol);
    const auto id = [&](char c) { return tables_->fallback_ids[static_cast<unsigned char>(c)]; };
    for (const char c : bytes)
      if (id(c) == kNoPiece) return false;
    for (const char c : bytes) symbols_.push_back(id(c));
    return true;
  }

  std::string_view with_affixes(std::string_view word, size_t at, uint32_t size) {
    const std::string& prefix = tables_->spec.continuing_prefix;
    const std::string& suffix = tables_->spec.end_suffix;
    const bool inside = at > 0 && !prefix.empty(), last = at + size == word.size() && !suffix.empty();
    if (!inside && !last) return word.substr(at, size);
    symbol_.clear();
    if (inside) symbol_ += prefix;
    symbol_ += word.substr(at, size);
    if (last) symbol_ += suffix;
    return symbol_;
  }

  std::shared_ptr<const BpeTables> tables_;
  BpeMerger merger_;
  WordCache cache_;
  std::vector<uint32_t> symbols_;
  std::string symbol_;
};

class BpeModel final : public TokenModel {
 public:
  explicit BpeModel(std::shared_ptr<const BpeTables> tables) : tables_(std::move(tables)) {}
  std::unique_ptr<WordEncoder> encoder() const override { return std::make_unique<BpeEncoder>(tables_); }
  uint32_t size() const override { return static_cast<uint32_t>(tables_->spec.pieces.size()); }
  std::string_view piece(uint32_t token) const override {
    return token < tables_->spec.pieces.size() ? std::string_view(tables_->spec.pieces[token]) : std::string_view();
  }
  std::optional<uint32_t> find(std::string_view piece) const override { return tables_->find.find(piece); }

 private:
  std::shared_ptr<const BpeTables> tables_;
};

}  // namespace

std::shared_ptr<const TokenModel> make_bpe_model(BpeSpec spec, const std::string& where) {
  return std::make_shared<BpeModel>(std::make_shared<const BpeTables>(std::move(spec), where));
}

}  // namespace capstan
