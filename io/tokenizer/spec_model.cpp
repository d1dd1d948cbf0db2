// The model of a TokenizerSpec: pieces from their form in the file to the model's, special tokens hidden.

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/pipeline_parts.h"
#include "io/tokenizer/unigram_model.h"
#include "io/tokenizer/word_models.h"

namespace capstan {
namespace {

// A BPE's unknown token must be a piece.
constexpr const char* kNeverInText = "\xFF\xFE\xFF unknown";

/// The double that Hugging Face has after reading a score: its JSON parser divides the digits by a power of ten, which
/// may be off by one in the last place, and where two segmentations tie that decides. The digits are the shortest that
/// say the number, as all writers of scores write them.
double as_peer_reads(double score) {
  const std::string text = fmt::format("{}", std::abs(score));
  const size_t mark = std::min(text.find('e'), text.size());
  const size_t point = std::min(text.find('.'), mark);
  std::string digits = text.substr(0, point);
  if (point < mark) digits += text.substr(point + 1, mark - point - 1);
  int exponent = 0;
  if (mark < text.size()) exponent = std::stoi(text.substr(mark + 1));
  if (point < mark) exponent -= static_cast<int>(mark - point - 1);
  uint64_t value = 0;
  double power = 1;
  const std::string ten = fmt::format("1e{}", std::abs(exponent));
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc() ||
      std::from_chars(ten.data(), ten.data() + ten.size(), power).ec != std::errc())
    return score;
  const double read = exponent < 0 ? static_cast<double>(value) / power : static_cast<double>(value) * power;
  return std::signbit(score) ? -read : read;
}

struct ModelMaker {
  const TokenizerSpec& spec;
  const PieceTable& names;
  bool byte_level;
  const std::vector<bool>& hidden;
  const std::string& where;

  std::vector<std::string> visible_pieces() const {
    std::vector<std::string> pieces = spec.pieces;
    for (size_t id = 0; id < pieces.size(); ++id) {
      if (hidden[id])
        pieces[id].clear();
      else if (byte_level)
        pieces[id] = from_byte_symbols(pieces[id]).value_or("");
    }
    return pieces;
  }
  std::optional<uint32_t> id_of(const std::string& name) const { return names.find(name); }

  /// Text never is the piece of a byte, nor one that is not in use.
  void hide_from_sentencepiece(UnigramSpec& unigram) const {
    for (const std::optional<uint32_t>& id : unigram.bytes)
      if (id) unigram.pieces[*id].clear();
    for (const uint32_t id : spec.sentencepiece->unused) {
      if (id >= unigram.pieces.size())
        throw Error::make(ExitCode::bad_data, "{}: unused piece {} of {}", where, id, unigram.pieces.size());
      unigram.pieces[id].clear();
    }
  }

  std::shared_ptr<const TokenModel> operator()(const BpeParts& parts) const {
    BpeSpec bpe;
    bpe.pieces = visible_pieces();
    for (const BpeSpec::Merge& merge : parts.merges)
      if (!bpe.pieces[merge.left].empty() && !bpe.pieces[merge.right].empty() && !bpe.pieces[merge.result].empty())
        bpe.merges.push_back(merge);
    bpe.byte_level = byte_level;
    bpe.byte_fallback = parts.byte_fallback && !byte_level;
    bpe.fuse_unknown = parts.fuse_unknown;
    bpe.ignore_merges = parts.ignore_merges;
    bpe.equal_results_tie = spec.equal_results_tie;
    bpe.continuing_prefix = parts.continuing_prefix;
    bpe.end_suffix = parts.end_suffix;
    if (parts.unknown && !byte_level) {
      bpe.unknown = id_of(*parts.unknown);
      if (!bpe.unknown)
        throw Error::make(ExitCode::bad_data, "{}: the unknown token \"{}\" is not in the vocabulary", where,
                          *parts.unknown);
      if (hidden[*bpe.unknown]) bpe.pieces[*bpe.unknown] = kNeverInText;
    }
    return make_bpe_model(std::move(bpe), where);
  }
  std::shared_ptr<const TokenModel> operator()(const UnigramParts& parts) const {
    UnigramSpec unigram;
    unigram.pieces = visible_pieces();
    unigram.scores = parts.scores;
    unigram.unknown = parts.unknown;
    unigram.byte_fallback = parts.byte_fallback;
    if (parts.byte_fallback) {
      for (int byte = 0; byte < 256; ++byte) unigram.bytes.push_back(names.find(fmt::format("<0x{:02X}>", byte)));
    }
    if (!spec.sentencepiece)
      for (double& score : unigram.scores) score = as_peer_reads(score);
    unigram.sentencepiece = spec.sentencepiece.has_value();
    if (unigram.sentencepiece) hide_from_sentencepiece(unigram);
    if (unigram.sentencepiece)
      for (const AddedToken& token : spec.added)
        if (!token.special && token.id < unigram.pieces.size()) unigram.user_defined.push_back(token.id);
    return make_unigram_model(std::move(unigram), where);
  }
  std::shared_ptr<const TokenModel> operator()(const WordPieceParts& parts) const {
    return make_word_piece_model({visible_pieces(), id_of(parts.unknown), parts.continuing_prefix, parts.longest_word});
  }
  std::shared_ptr<const TokenModel> operator()(const WordLevelParts& parts) const {
    return make_word_level_model({visible_pieces(), id_of(parts.unknown)});
  }
};

}  // namespace

std::shared_ptr<const TokenModel> make_model(const TokenizerSpec& spec, const PieceTable& names, bool byte_level,
                                             const std::vector<bool>& hidden, const std::string& where) {
  return std::visit(ModelMaker{spec, names, byte_level, hidden, where}, spec.model);
}

}  // namespace capstan
