#include "io/tokenizer/unigram_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "io/tokenizer/byte_trie.h"
#include "io/tokenizer/piece_table.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr double kUnknownPenalty = 10.0;

class UnigramModel final : public TokenModel, public std::enable_shared_from_this<UnigramModel> {
 public:
  UnigramModel(UnigramSpec given, const std::string& where) : spec(std::move(given)) {
    if (spec.scores.size() != spec.pieces.size())
      throw Error::make(ExitCode::bad_data, "{}: {} pieces but {} scores", where, spec.pieces.size(),
                        spec.scores.size());
    std::vector<bool> user(spec.pieces.size());
    for (const uint32_t id : spec.user_defined) user.at(id) = true;
    double most = std::numeric_limits<float>::min();  // as SentencePiece begins: scores are negative, so this stays
    std::vector<std::pair<std::string_view, uint32_t>> strings;
    for (uint32_t id = 0; id < spec.pieces.size(); ++id) {
      if (!std::isfinite(spec.scores[id]))
        throw Error::make(ExitCode::bad_data, "{}: the score of piece {} is no finite number", where, id);
      if (!spec.pieces[id].empty()) strings.emplace_back(spec.pieces[id], id);
      if (spec.sentencepiece && (spec.pieces[id].empty() || user[id])) continue;  // it looks at ordinary pieces only
      least_score = std::min(least_score, spec.scores[id]);
      most = std::max(most, spec.scores[id]);
    }
    for (const uint32_t id : spec.user_defined)
      spec.scores[id] = static_cast<float>(spec.pieces[id].size()) * static_cast<float>(most) - 0.1;
    table = PieceTable(spec.pieces);
    trie = ByteTrie(std::move(strings));
  }
  std::unique_ptr<WordEncoder> encoder() const override;
  uint32_t size() const override { return static_cast<uint32_t>(spec.pieces.size()); }
  std::string_view piece(uint32_t token) const override { return spec.pieces.at(token); }
  std::optional<uint32_t> find(std::string_view piece) const override { return table.find(piece); }

  UnigramSpec spec;
  PieceTable table;
  ByteTrie trie;
  double least_score = std::numeric_limits<double>::infinity();
};

/// Sum is float or double: the precision in which the score of a path is kept.
template <typename Sum>
class UnigramEncoder final : public WordEncoder {
 public:
  explicit UnigramEncoder(std::shared_ptr<const UnigramModel> model)
      : model_(std::move(model)),
        unknown_score_(static_cast<Sum>(static_cast<Sum>(model_->least_score) - static_cast<Sum>(kUnknownPenalty))) {}

  void encode(std::string_view word, std::vector<uint32_t>& tokens) override {
    ends_.assign(word.size() + 1, {});
    for (size_t at = 0; at < word.size();) {
      const uint32_t size = utf8_at(word, at).size;
      bool alone = false;
      const Sum so_far = ends_[at].sum;
      model_->trie.each_prefix(word, at, [&](size_t length, uint32_t id) {
        offer(at, length, id, static_cast<Sum>(static_cast<Sum>(model_->spec.scores[id]) + so_far));
        alone = alone || length == size;
      });
      if (!alone) offer(at, size, kUnknown, static_cast<Sum>(unknown_score_ + so_far));
      at += size;
    }
    walk_back(word, tokens);
  }

 private:
  static constexpr uint32_t kUnknown = UINT32_MAX;
  struct End {
    Sum sum = 0;
    uint32_t id = 0;
    uint32_t length = 0;  // of the last piece; 0: no path ends here
  };

  void offer(size_t at, size_t length, uint32_t id, Sum sum) {
    End& end = ends_[at + length];
    if (end.length != 0 && !(sum > end.sum)) return;
    end = {sum, id, static_cast<uint32_t>(length)};
  }

  /// Neighbouring unknown characters are one piece, which may yet be in the vocabulary under the id of a later one.
  void walk_back(std::string_view word, std::vector<uint32_t>& tokens) {
    path_.clear();
    for (size_t at = word.size(); at > 0; at -= ends_[at].length)
      path_.push_back({at - ends_[at].length, at, is_unknown(ends_[at].id) ? kUnknown : ends_[at].id});
    std::reverse(path_.begin(), path_.end());
    for (size_t i = 0; i < path_.size(); ++i) {
      if (path_[i].id != kUnknown) {
        tokens.push_back(path_[i].id);
        continue;
      }
      size_t last = i;
      while (last + 1 < path_.size() && path_[last + 1].id == kUnknown) ++last;
      add_unknown(word.substr(path_[i].begin, path_[last].end - path_[i].begin), tokens);
      i = last;
    }
  }

  bool is_unknown(uint32_t id) const { return id == kUnknown || id == model_->spec.unknown; }

  void add_unknown(std::string_view text, std::vector<uint32_t>& tokens) {
    const UnigramSpec& spec = model_->spec;
    if (const std::optional<uint32_t> id = model_->table.find(text)) return tokens.push_back(*id);
    if (spec.byte_fallback) {
      const size_t before = tokens.size();
      for (const char byte : text) {
        const std::optional<uint32_t>& id = spec.bytes[static_cast<unsigned char>(byte)];
        if (!id) break;
        tokens.push_back(*id);
      }
      if (tokens.size() == before + text.size()) return;
      tokens.resize(before);
    }
    if (!spec.unknown)
      throw Error::make(ExitCode::bad_data, "the vocabulary has no piece for \"{}\" and no unknown token",
                        text.substr(0, 40));
    tokens.push_back(*spec.unknown);
  }

  struct Step {
    size_t begin, end;
    uint32_t id;
  };
  std::shared_ptr<const UnigramModel> model_;
  Sum unknown_score_;
  std::vector<End> ends_;
  std::vector<Step> path_;
};

std::unique_ptr<WordEncoder> UnigramModel::encoder() const {
  if (spec.sentencepiece) return std::make_unique<UnigramEncoder<float>>(shared_from_this());
  return std::make_unique<UnigramEncoder<double>>(shared_from_this());
}

}  // namespace

std::shared_ptr<const TokenModel> make_unigram_model(UnigramSpec spec, const std::string& where) {
  if (spec.unknown && *spec.unknown >= spec.pieces.size())
    throw Error::make(ExitCode::bad_data, "{}: unknown token {} of {} pieces", where, *spec.unknown,
                      spec.pieces.size());
  if (spec.byte_fallback && spec.bytes.size() != 256) spec.bytes.resize(256);
  return std::make_shared<UnigramModel>(std::move(spec), where);
}

}  // namespace capstan
