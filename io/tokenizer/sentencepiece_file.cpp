// SentencePiece's `.model`: a protocol buffer of pieces with scores and kinds, a few settings of the trainer and the
// normalizer. Read field by field, unknown fields passed over, every length checked against what is left.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "io/tokenizer/piece_table.h"
#include "io/tokenizer/token_files.h"

namespace capstan {
namespace {

constexpr size_t kMostPieces = size_t{1} << 23;
constexpr size_t kLongestPiece = size_t{1} << 16;
enum Kind { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

/// Walks the fields of one message.
class Message {
 public:
  Message(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  bool next() {
    if (bytes_.empty()) return false;
    const uint64_t key = varint();
    field = key >> 3;
    const uint64_t wire = key & 7;
    number = 0;
    content = {};
    if (wire == 0)
      number = varint();
    else if (wire == 1)
      content = take(8);
    else if (wire == 2)
      content = take(varint());
    else if (wire == 5)
      content = take(4);
    else
      throw bad(fmt::format("wire type {}", wire));
    is_text = wire == 2;
    return true;
  }
  float real() const {
    float value = 0;
    if (content.size() != 4) throw bad("a score that is no 32-bit number");
    std::memcpy(&value, content.data(), 4);
    return value;
  }
  std::string_view text() const {
    if (!is_text) throw bad(fmt::format("field {} is no string", field));
    return content;
  }

  uint64_t field = 0, number = 0;
  std::string_view content;
  bool is_text = false;

 private:
  Error bad(const std::string& why) const {
    return Error::make(ExitCode::bad_data, "{}: not a SentencePiece model: {}", where_, why);
  }
  std::string_view take(uint64_t count) {
    if (count > bytes_.size()) throw bad(fmt::format("{} bytes wanted, {} left", count, bytes_.size()));
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    throw bad("a number of more than 64 bits");
  }

  std::string_view bytes_;
  const std::string& where_;
};

struct Model {
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<uint64_t> kinds;
  uint64_t type = 1;  // 1 Unigram, 2 BPE, 3 word, 4 character
  bool byte_fallback = false, space_as_suffix = false;
  uint64_t end = 2;
  SentencePieceText text;
  std::string charsmap;
};

void read_piece(Model& model, std::string_view bytes, const std::string& where) {
  Message message(bytes, where);
  std::string piece;
  float score = 0;
  uint64_t kind = kNormal;
  while (message.next()) {
    if (message.field == 1) piece = message.text();
    if (message.field == 2) score = message.real();
    if (message.field == 3) kind = message.number;
  }
  if (piece.empty() || piece.size() > kLongestPiece || !std::isfinite(score) || kind < kNormal || kind > kByte)
    throw Error::make(ExitCode::bad_data, "{}: piece {} is damaged (\"{}\", score {}, kind {})", where,
                      model.pieces.size(), piece.substr(0, 40), score, kind);
  if (model.pieces.size() >= kMostPieces)
    throw Error::make(ExitCode::bad_data, "{}: wanted at most {} pieces, got more", where, kMostPieces);
  model.pieces.push_back(std::move(piece));
  model.scores.push_back(score);
  model.kinds.push_back(kind);
}

Model read_model(std::string_view bytes, const std::string& where) {
  Model model;
  Message message(bytes, where);
  while (message.next()) {
    if (message.field == 1) {
      read_piece(model, message.text(), where);
    } else if (message.field == 2) {
      Message trainer(message.text(), where);
      while (trainer.next()) {
        if (trainer.field == 3) model.type = trainer.number;
        if (trainer.field == 24) model.space_as_suffix = trainer.number != 0;
        if (trainer.field == 35) model.byte_fallback = trainer.number != 0;
        if (trainer.field == 42) model.end = trainer.number;
      }
    } else if (message.field == 3) {
      Message normalizer(message.text(), where);
      while (normalizer.next()) {
        if (normalizer.field == 2) model.charsmap = normalizer.text();
        if (normalizer.field == 3) model.text.add_dummy_prefix = normalizer.number != 0;
        if (normalizer.field == 4) model.text.remove_extra_spaces = normalizer.number != 0;
        if (normalizer.field == 5) model.text.escape_spaces = normalizer.number != 0;
      }
    }
  }
  if (model.pieces.empty()) throw Error::make(ExitCode::bad_data, "{}: a SentencePiece model without pieces", where);
  if (model.type != 1 && model.type != 2)
    throw Error::make(ExitCode::bad_data, "{}: wanted a Unigram (1) or BPE (2) model, got type {}", where, model.type);
  if (model.space_as_suffix)
    throw Error::make(ExitCode::bad_data, "{}: models that write spaces behind words are not supported", where);
  return model;
}

/// Every two pieces whose text together is a piece merge into it, the one of greatest score first.
std::vector<BpeSpec::Merge> merges_of(const Model& model) {
  std::vector<std::string> normal = model.pieces;
  for (size_t id = 0; id < normal.size(); ++id)
    if (model.kinds[id] != kNormal) normal[id].clear();
  const PieceTable table(normal);
  std::vector<uint32_t> order;
  for (uint32_t id = 0; id < normal.size(); ++id)
    if (!normal[id].empty()) order.push_back(id);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return model.scores[a] > model.scores[b]; });
  std::vector<BpeSpec::Merge> merges;
  for (const uint32_t id : order) {
    const std::string_view piece = normal[id];
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = table.find(piece.substr(0, cut)), right = table.find(piece.substr(cut));
      if (left && right) merges.push_back({*left, *right, id});
    }
  }
  return merges;
}

bool any_piece_spans_words(const Model& model) {
  return std::any_of(model.pieces.begin(), model.pieces.end(),
                     [](const std::string& piece) { return piece.find("\u2581", 1) != piece.npos; });
}

/// Close to what SentencePiece does, in Hugging Face's components.
void add_components(TokenizerSpec& spec, const Model& model) {
  const std::string sign = "\u2581";
  if (!model.charsmap.empty()) spec.normalizer.emplace_back(Precompiled{model.charsmap});
  if (model.text.remove_extra_spaces) {
    spec.normalizer.emplace_back(Replace{{"\\A +|[ \u2581]+\\z", true}, ""});
    spec.normalizer.emplace_back(Replace{{" {2,}", true}, " "});
  }
  if (model.type == 1) {
    // "first", or a space would come behind user-defined pieces too.
    const bool user_defined = std::find(model.kinds.begin(), model.kinds.end(), kUserDefined) != model.kinds.end();
    const auto scheme = user_defined ? Metaspace::Scheme::first : Metaspace::Scheme::always;
    spec.pre_tokenizer.emplace_back(Metaspace{sign, model.text.add_dummy_prefix ? scheme : Metaspace::Scheme::never,
                                              !any_piece_spans_words(model)});
  } else {
    if (model.text.add_dummy_prefix) spec.normalizer.emplace_back(Prepend{sign});
    spec.normalizer.emplace_back(Replace{{" ", false}, sign});
  }
  spec.decoder = std::vector<DecoderSpec>{Replace{{sign, false}, " "}, ByteFallback{}, Fuse{}};
  if (model.text.add_dummy_prefix) spec.decoder->emplace_back(StripDecoder{" ", 1, 0});
}

}  // namespace

TokenizerSpec read_sentencepiece(std::string_view bytes, const std::string& where) {
  Model model = read_model(bytes, where);
  TokenizerSpec spec;
  std::optional<uint32_t> unknown;
  for (uint32_t id = 0; id < model.pieces.size(); ++id) {
    const uint64_t kind = model.kinds[id];
    if (kind == kUnknown) unknown = id;
    if (kind == kUnknown || kind == kControl || kind == kUserDefined)
      spec.added.push_back({id, model.pieces[id], false, false, false, false, kind != kUserDefined});
    if (kind == kUnused) model.text.unused.push_back(id);
  }
  add_components(spec, model);
  if (model.type == 1) {
    UnigramParts unigram;
    unigram.scores.assign(model.scores.begin(), model.scores.end());
    unigram.unknown = unknown;
    unigram.byte_fallback = model.byte_fallback;
    spec.model = std::move(unigram);
  } else {
    BpeParts bpe;
    check_merge_work(model.pieces, where);
    bpe.merges = merges_of(model);
    if (unknown) bpe.unknown = model.pieces[*unknown];
    bpe.fuse_unknown = true;
    bpe.byte_fallback = model.byte_fallback;
    spec.model = std::move(bpe);
    spec.equal_results_tie = true;
  }
  if (model.end < model.pieces.size() && model.kinds[model.end] == kControl)
    spec.end_of_document = model.pieces[model.end];
  spec.sentencepiece = std::move(model.text);
  spec.pieces = std::move(model.pieces);
  return spec;
}

}  // namespace capstan
