// tokenizer.json to TokenizerSpec. The two large members, the vocabulary and the merges, are taken from the parser's
// events as they come; everything else is small and becomes a JsonValue first.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/component_json.h"
#include "io/tokenizer/piece_table.h"
#include "io/tokenizer/spec.h"

namespace capstan {
namespace {

constexpr JsonLimits kLimits{64, size_t{1} << 25, size_t{1} << 16, size_t{1} << 24};
constexpr uint64_t kLargestId = (uint64_t{1} << 24) - 1;
constexpr size_t kSmallValues = size_t{1} << 21;  // in all members that are not the vocabulary or the merges

template <typename... Rest>
Error bad_spec(const std::string& where, fmt::format_string<Rest...> format, Rest&&... rest) {
  return Error::make(ExitCode::bad_data, "{}: {}", where, fmt::format(format, std::forward<Rest>(rest)...));
}

/// The large members, before it is known what kind of model they belong to.
struct Tables {
  std::vector<std::pair<std::string, uint64_t>> by_name;  // {"token": id}
  std::vector<std::pair<std::string, double>> by_order;   // [["token", score]]
  std::vector<std::pair<std::string, std::string>> merges;
  bool has_vocabulary = false, has_merges = false;
};

class SpecReader final : public JsonEvents {
 public:
  explicit SpecReader(const std::string& where) : where_(where) {}
  JsonValue root{JsonValue::Object{}};  // without the large members
  Tables tables;

  void object_begin() override {
    if (large_ != Large::none) throw misplaced("an object");
    if (large_is("vocab")) {
      large_ = Large::names;
      tables.has_vocabulary = true;
      return enter_large();
    }
    open(JsonValue::Object{});
  }
  void object_end() override { close(); }
  void array_begin() override {
    if (large_ == Large::none && (large_is("vocab") || large_is("merges"))) {
      large_ = large_is("vocab") ? Large::order : Large::merges;
      (large_ == Large::order ? tables.has_vocabulary : tables.has_merges) = true;
      return enter_large();
    }
    if (large_ == Large::none) return open(JsonValue::Array{});
    if (large_ == Large::names || depth_ != large_depth_) throw misplaced("an array");
    row_ = 0;
    ++depth_;
  }
  void array_end() override {
    if (large_ != Large::none && depth_ == large_depth_ + 1 && row_ != 2) throw misplaced("a list that is no pair");
    close();
  }
  void key(std::string_view name) override { key_ = name; }
  void text(std::string_view value) override {
    const bool in_row = depth_ == large_depth_ + 1;
    switch (large_) {
      case Large::none:
        return put(std::string(value));
      case Large::names:
        throw misplaced("a string");
      case Large::order:
        if (!in_row || row_++ != 0) throw misplaced("a string");
        tables.by_order.emplace_back(value, std::nan(""));
        return;
      case Large::merges:
        if (!in_row) return add_written_merge(value);
        if (row_ == 0)
          tables.merges.emplace_back(value, std::string());
        else if (row_ == 1)
          tables.merges.back().second = value;
        ++row_;
        return;
    }
  }
  void count(uint64_t value) override {
    if (large_ == Large::names) {
      if (value > kLargestId)
        throw bad_spec(where_, "vocabulary: wanted ids below 2^24, got {} for \"{}\"", value, key_);
      tables.by_name.emplace_back(std::move(key_), value);
    } else if (large_ != Large::none) {
      score(static_cast<double>(value));
    } else {
      put(value);
    }
  }
  void negative(int64_t value) override { large_ == Large::none ? put(value) : score(static_cast<double>(value)); }
  void real(double value) override { large_ == Large::none ? put(value) : score(value); }
  void boolean(bool value) override { put(value); }
  void null() override { put(nullptr); }

 private:
  enum class Large { none, names, order, merges };

  bool large_is(std::string_view name) const { return depth_ == 2 && in_model_ && key_ == name; }
  void enter_large() { large_depth_ = ++depth_; }
  void close() {
    --depth_;
    if (large_ != Large::none) {
      if (depth_ < large_depth_) large_ = Large::none, large_depth_ = kNowhere;
      return;
    }
    open_.pop_back();
    if (depth_ == 1) in_model_ = false;
  }
  Error misplaced(const char* what) const {
    return bad_spec(where_,
                    "model: wanted a vocabulary {{\"piece\": id}} or [[\"piece\", score]] and merges [\"a b\"] or "
                    "[[\"a\", \"b\"]], got {} in it",
                    what);
  }
  void score(double value) {
    if (large_ != Large::order || depth_ != large_depth_ + 1 || row_++ != 1) throw misplaced("a number");
    tables.by_order.back().second = value;
  }
  void add_written_merge(std::string_view value) {
    if (value.substr(0, 8) == "#version") return;
    const size_t space = value.find(' ');
    if (space == value.npos || value.find(' ', space + 1) != value.npos)
      throw bad_spec(where_, "merges: wanted two pieces with a space between them, got \"{}\"", value);
    tables.merges.emplace_back(value.substr(0, space), value.substr(space + 1));
  }
  JsonValue* add(JsonValue::Content content) {
    if (++values_ > kSmallValues) throw bad_spec(where_, "wanted at most {} values outside the model", kSmallValues);
    JsonValue value(std::move(content));
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (auto* array = std::get_if<JsonValue::Array>(&open_.back()->content())) {
      array->push_back(std::move(value));
      return &array->back();
    }
    auto& object = std::get<JsonValue::Object>(open_.back()->content());
    object.push_back({std::move(key_), std::move(value)});
    return &object.back().value;
  }
  void put(JsonValue::Content content) {
    if (large_ != Large::none) throw misplaced("a value of another kind");
    add(std::move(content));
  }
  void open(JsonValue::Content content) {
    if (depth_ == 1 && key_ == "model") in_model_ = true;
    open_.push_back(add(std::move(content)));
    ++depth_;
  }

  static constexpr int kNowhere = 1 << 20;
  const std::string& where_;
  std::vector<JsonValue*> open_;
  std::string key_;
  size_t values_ = 0;
  int depth_ = 0, large_depth_ = kNowhere, row_ = 0;
  bool in_model_ = false;
  Large large_ = Large::none;
};

std::vector<std::string> pieces_by_id(Tables& tables, const std::string& where) {
  std::vector<std::string> pieces;
  if (!tables.by_order.empty()) {
    for (auto& [piece, score] : tables.by_order) pieces.push_back(std::move(piece));
    if (pieces.size() > kLargestId)
      throw bad_spec(where, "vocabulary: wanted at most 2^24 pieces, got {}", pieces.size());
    return pieces;
  }
  uint64_t largest = 0;
  for (const auto& [piece, id] : tables.by_name) largest = std::max(largest, id);
  if (largest > tables.by_name.size() * 2 + (1 << 16))  // more holes than pieces: memory would follow the file's word
    throw bad_spec(where, "vocabulary: got id {} in a vocabulary of {} pieces", largest, tables.by_name.size());
  pieces.resize(tables.by_name.empty() ? 0 : largest + 1);
  std::vector<bool> taken(pieces.size());
  for (auto& [piece, id] : tables.by_name) {
    if (taken[id]) throw bad_spec(where, "vocabulary: two pieces have id {}, \"{}\" and \"{}\"", id, pieces[id], piece);
    taken[id] = true;
    pieces[id] = std::move(piece);
  }
  return pieces;
}

std::vector<BpeSpec::Merge> merges_by_id(const Tables& tables, const std::vector<std::string>& pieces,
                                         const std::string& prefix, const std::string& where) {
  const PieceTable table(pieces);
  const auto id_of = [&](std::string_view piece, const auto& merge) {
    if (const std::optional<uint32_t> id = table.find(piece)) return *id;
    throw bad_spec(where, "merges: \"{}\" and \"{}\" need the piece \"{}\", which the vocabulary lacks", merge.first,
                   merge.second, piece);
  };
  std::vector<BpeSpec::Merge> merges;
  merges.reserve(tables.merges.size());
  std::string joined;
  for (const auto& merge : tables.merges) {
    std::string_view tail = merge.second;
    if (tail.size() < prefix.size())
      throw bad_spec(where, "merges: \"{}\" is shorter than the prefix \"{}\" of pieces inside a word", tail, prefix);
    tail.remove_prefix(prefix.size());
    joined.assign(merge.first).append(tail);
    merges.push_back({id_of(merge.first, merge), id_of(merge.second, merge), id_of(joined, merge)});
  }
  return merges;
}

BpeParts read_bpe(const JsonValue& model, const Tables& tables, const std::vector<std::string>& pieces,
                  const std::string& where) {
  BpeParts bpe;
  if (!tables.has_merges) throw bad_spec(where, "a BPE without merges");
  const JsonValue* dropout = model.find("dropout");
  if (!is_null(dropout) && dropout->number("dropout") != 0)
    throw bad_spec(where, "wanted dropout null (it is for training subword models), got another");
  if (!is_null(model.find("unk_token"))) bpe.unknown = text_of(model, "unk_token", "", where);
  bpe.continuing_prefix = text_of(model, "continuing_subword_prefix", "", where);
  bpe.end_suffix = text_of(model, "end_of_word_suffix", "", where);
  bpe.fuse_unknown = flag_of(model, "fuse_unk", false, where);
  bpe.byte_fallback = flag_of(model, "byte_fallback", false, where);
  bpe.ignore_merges = flag_of(model, "ignore_merges", false, where);
  bpe.merges = merges_by_id(tables, pieces, bpe.continuing_prefix, where);
  return bpe;
}

UnigramParts read_unigram(const JsonValue& model, const Tables& tables, const std::string& where) {
  UnigramParts unigram;
  for (const auto& [piece, score] : tables.by_order) unigram.scores.push_back(score);
  unigram.byte_fallback = flag_of(model, "byte_fallback", false, where);
  if (!is_null(model.find("unk_id"))) {
    const uint64_t id = count_of(model, "unk_id", 0, where);
    if (id >= unigram.scores.size()) throw bad_spec(where, "wanted unk_id below {}, got {}", unigram.scores.size(), id);
    unigram.unknown = static_cast<uint32_t>(id);
  }
  return unigram;
}

/// Old files say no type: what they hold tells.
std::string model_type(const JsonValue& model, const Tables& tables, const std::string& where) {
  if (const JsonValue* type = model.find("type")) return type->text(where);
  if (tables.has_merges) return "BPE";
  if (!tables.by_order.empty()) return "Unigram";
  return model.find("continuing_subword_prefix") != nullptr ? "WordPiece" : "WordLevel";
}

void read_model(TokenizerSpec& spec, const JsonValue& model, Tables& tables, const std::string& where) {
  const std::string type = model_type(model, tables, where);
  if (!tables.has_vocabulary) throw bad_spec(where, "model: wanted a vocabulary \"vocab\", there is none");
  if ((type == "Unigram") == tables.by_order.empty() && !(type == "Unigram" && tables.by_name.empty()))
    throw bad_spec(where, "model: a vocabulary of the wrong form for a {}", type);
  if (type == "Unigram") spec.model = read_unigram(model, tables, where);
  spec.pieces = pieces_by_id(tables, where);
  if (type == "BPE")
    spec.model = read_bpe(model, tables, spec.pieces, where);
  else if (type == "WordPiece")
    spec.model = WordPieceParts{text_of(model, "unk_token", "[UNK]", where),
                                text_of(model, "continuing_subword_prefix", "##", where),
                                count_of(model, "max_input_chars_per_word", 100, where)};
  else if (type == "WordLevel")
    spec.model = WordLevelParts{text_of(model, "unk_token", "<unk>", where)};
  else if (type != "Unigram")
    throw bad_spec(where, "model: unknown type \"{}\"; known: BPE Unigram WordPiece WordLevel", type);
}

void read_ours(TokenizerSpec& spec, const JsonValue& ours, const std::string& where) {
  spec.name = text_of(ours, "name", "", where);
  spec.end_of_document = text_of(ours, "end_of_document", "", where);
  spec.equal_results_tie = flag_of(ours, "equal_results_tie", false, where);
  if (const JsonValue* text = ours.find("sentencepiece")) spec.sentencepiece = read_sentencepiece_text(*text, where);
}

JsonValue take(const JsonValue& root, std::string_view name) {
  const JsonValue* value = root.find(name);
  return value == nullptr ? JsonValue() : *value;
}

}  // namespace

TokenizerSpec read_tokenizer_json(std::string_view text, const std::string& where) {
  SpecReader reader(where);
  parse_json_events(text, where, kLimits, reader);
  const JsonValue& root = reader.root;
  if (const std::string version = text_of(root, "version", "1.0", where); version != "1.0")
    throw bad_spec(where, "wanted version \"1.0\", got \"{}\"", version);
  const JsonValue* model = root.find("model");
  if (is_null(model)) throw bad_spec(where, "wanted a member \"model\", there is none");
  TokenizerSpec spec;
  read_model(spec, *model, reader.tables, where + ": model");
  spec.added = read_added_tokens(take(root, "added_tokens"), where + ": added_tokens");
  spec.normalizer = read_normalizers(take(root, "normalizer"), where + ": normalizer");
  spec.pre_tokenizer = read_pre_tokenizers(take(root, "pre_tokenizer"), where + ": pre_tokenizer");
  spec.decoder = read_decoders(take(root, "decoder"), where + ": decoder");
  spec.truncation = take(root, "truncation");
  spec.padding = take(root, "padding");
  spec.post_processor = take(root, "post_processor");
  if (const JsonValue* ours = model->find("capstan")) read_ours(spec, *ours, where + ": model: capstan");
  return spec;
}

bool TokenizerSpec::byte_level(const PieceTable& table) const {
  const auto* bpe = std::get_if<BpeParts>(&model);
  if (bpe == nullptr || pre_tokenizer.empty() || !std::holds_alternative<ByteLevel>(pre_tokenizer.back())) return false;
  if (!bpe->continuing_prefix.empty() || !bpe->end_suffix.empty()) return false;
  for (int byte = 0; byte < 256; ++byte)
    if (!table.find(to_byte_symbols(std::string(1, static_cast<char>(byte))))) return false;
  return true;
}

}  // namespace capstan
