#include "io/tokenizer/word_models.h"

#include "core/error.h"
#include "io/tokenizer/byte_trie.h"
#include "io/tokenizer/piece_table.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

void add_unknown(std::optional<uint32_t> unknown, std::string_view word, std::vector<uint32_t>& tokens) {
  if (!unknown)
    throw Error::make(ExitCode::bad_data, "the vocabulary lacks the word \"{}\" and an unknown token",
                      word.substr(0, 40));
  tokens.push_back(*unknown);
}

class WordPieceModel final : public TokenModel, public std::enable_shared_from_this<WordPieceModel> {
 public:
  explicit WordPieceModel(WordPieceSpec given) : spec(std::move(given)), table(spec.pieces) {
    std::vector<std::pair<std::string_view, uint32_t>> first, later;
    for (uint32_t id = 0; id < spec.pieces.size(); ++id) {
      const std::string_view piece = spec.pieces[id];
      first.emplace_back(piece, id);
      if (piece.starts_with(spec.continuing_prefix))
        later.emplace_back(piece.substr(spec.continuing_prefix.size()), id);
    }
    beginnings = ByteTrie(std::move(first));
    continuations = ByteTrie(std::move(later));
  }
  std::unique_ptr<WordEncoder> encoder() const override;
  uint32_t size() const override { return static_cast<uint32_t>(spec.pieces.size()); }
  std::string_view piece(uint32_t token) const override { return spec.pieces.at(token); }
  std::optional<uint32_t> find(std::string_view piece) const override { return table.find(piece); }

  WordPieceSpec spec;
  PieceTable table;
  ByteTrie beginnings, continuations;
};

class WordPieceEncoder final : public WordEncoder {
 public:
  explicit WordPieceEncoder(std::shared_ptr<const WordPieceModel> model) : model_(std::move(model)) {}

  void encode(std::string_view word, std::vector<uint32_t>& tokens) override {
    const WordPieceSpec& spec = model_->spec;
    if (word.size() > spec.longest_word && count_utf8(word) > spec.longest_word)
      return add_unknown(spec.unknown, word, tokens);
    const size_t before = tokens.size();
    for (size_t at = 0; at < word.size();) {
      size_t length = 0;
      uint32_t token = 0;
      (at == 0 ? model_->beginnings : model_->continuations).each_prefix(word, at, [&](size_t size, uint32_t id) {
        length = size, token = id;
      });
      if (length == 0) {
        tokens.resize(before);
        return add_unknown(spec.unknown, word, tokens);
      }
      tokens.push_back(token);
      at += length;
    }
  }

 private:
  std::shared_ptr<const WordPieceModel> model_;
};

std::unique_ptr<WordEncoder> WordPieceModel::encoder() const {
  return std::make_unique<WordPieceEncoder>(shared_from_this());
}

class WordLevelModel final : public TokenModel, public std::enable_shared_from_this<WordLevelModel> {
 public:
  explicit WordLevelModel(WordLevelSpec given) : spec(std::move(given)), table(spec.pieces) {}
  std::unique_ptr<WordEncoder> encoder() const override;
  uint32_t size() const override { return static_cast<uint32_t>(spec.pieces.size()); }
  std::string_view piece(uint32_t token) const override { return spec.pieces.at(token); }
  std::optional<uint32_t> find(std::string_view piece) const override { return table.find(piece); }

  WordLevelSpec spec;
  PieceTable table;
};

class WordLevelEncoder final : public WordEncoder {
 public:
  explicit WordLevelEncoder(std::shared_ptr<const WordLevelModel> model) : model_(std::move(model)) {}
  void encode(std::string_view word, std::vector<uint32_t>& tokens) override {
    if (const std::optional<uint32_t> id = model_->table.find(word)) return tokens.push_back(*id);
    add_unknown(model_->spec.unknown, word, tokens);
  }

 private:
  std::shared_ptr<const WordLevelModel> model_;
};

std::unique_ptr<WordEncoder> WordLevelModel::encoder() const {
  return std::make_unique<WordLevelEncoder>(shared_from_this());
}

}  // namespace

std::shared_ptr<const TokenModel> make_word_piece_model(WordPieceSpec spec) {
  return std::make_shared<WordPieceModel>(std::move(spec));
}

std::shared_ptr<const TokenModel> make_word_level_model(WordLevelSpec spec) {
  return std::make_shared<WordLevelModel>(std::move(spec));
}

}  // namespace capstan
