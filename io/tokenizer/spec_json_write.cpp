// TokenizerSpec to tokenizer.json, one piece and one merge a line. What is ours stands in a member "capstan" of the
// model: that is where Hugging Face `tokenizers` passes over names that it does not know (at the top it fails).

#include <fmt/format.h>

#include <cmath>

#include "io/tokenizer/component_json.h"
#include "io/tokenizer/spec.h"

namespace capstan {
namespace {

void append_vocabulary(std::string& text, const std::vector<std::string>& pieces) {
  text += "\"vocab\": {";
  const char* between = "\n";
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].empty()) continue;
    text += between;
    text += json_quote(pieces[id]);
    fmt::format_to(std::back_inserter(text), ": {}", id);
    between = ",\n";
  }
  text += "\n}";
}

void append_scores(std::string& text, const std::vector<std::string>& pieces, const std::vector<double>& scores) {
  text += "\"vocab\": [";
  for (size_t id = 0; id < pieces.size(); ++id) {
    text += id == 0 ? "\n[" : ",\n[";
    text += json_quote(pieces[id]) + ", " + to_json(JsonValue(scores[id])) + "]";
  }
  text += "\n]";
}

/// As "a b", which every version reads, unless a piece has a space in it.
void append_merges(std::string& text, const std::vector<std::string>& pieces,
                   const std::vector<BpeSpec::Merge>& merges) {
  bool spaces = false;
  for (const BpeSpec::Merge& merge : merges)
    spaces = spaces || pieces[merge.left].find(' ') != std::string::npos ||
             pieces[merge.right].find(' ') != std::string::npos || pieces[merge.left].starts_with("#version");
  text += "\"merges\": [";
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string &left = pieces[merges[i].left], &right = pieces[merges[i].right];
    text += i == 0 ? "\n" : ",\n";
    text += spaces ? "[" + json_quote(left) + ", " + json_quote(right) + "]" : json_quote(left + " " + right);
  }
  text += "\n]";
}

std::string text_or_null(const std::string& text) { return text.empty() ? "null" : json_quote(text); }

std::string ours(const TokenizerSpec& spec) {
  std::string text = "\"capstan\": {";
  if (!spec.name.empty()) text += "\"name\": " + json_quote(spec.name) + ", ";
  if (spec.sentencepiece) text += "\"sentencepiece\": " + to_json(*spec.sentencepiece) + ", ";
  if (spec.equal_results_tie) text += "\"equal_results_tie\": true, ";
  return text + "\"end_of_document\": " + json_quote(spec.end_of_document) + "},\n";
}

struct ModelWriter {
  std::string& text;
  const std::vector<std::string>& pieces;
  std::string capstan;

  void operator()(const BpeParts& bpe) const {
    text += fmt::format(
        "{{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": {}, \"continuing_subword_prefix\": {}, "
        "\"end_of_word_suffix\": {}, \"fuse_unk\": {}, \"byte_fallback\": {}, \"ignore_merges\": {}, ",
        bpe.unknown ? json_quote(*bpe.unknown) : "null", text_or_null(bpe.continuing_prefix),
        text_or_null(bpe.end_suffix), bpe.fuse_unknown, bpe.byte_fallback, bpe.ignore_merges);
    text += capstan;
    append_vocabulary(text, pieces);
    text += ", ";
    append_merges(text, pieces, bpe.merges);
    text += "}";
  }
  void operator()(const UnigramParts& unigram) const {
    text += fmt::format("{{\"type\": \"Unigram\", \"unk_id\": {}, ",
                        unigram.unknown ? fmt::format("{}", *unigram.unknown) : "null");
    text += capstan;
    append_scores(text, pieces, unigram.scores);
    text += fmt::format(", \"byte_fallback\": {}}}", unigram.byte_fallback);
  }
  void operator()(const WordPieceParts& word_piece) const {
    text += fmt::format(
        "{{\"type\": \"WordPiece\", \"unk_token\": {}, \"continuing_subword_prefix\": {}, "
        "\"max_input_chars_per_word\": {}, ",
        json_quote(word_piece.unknown), json_quote(word_piece.continuing_prefix), word_piece.longest_word);
    text += capstan;
    append_vocabulary(text, pieces);
    text += "}";
  }
  void operator()(const WordLevelParts& word_level) const {
    text += "{\"type\": \"WordLevel\", " + capstan;
    append_vocabulary(text, pieces);
    text += fmt::format(", \"unk_token\": {}}}", json_quote(word_level.unknown));
  }
};

}  // namespace

std::string write_tokenizer_json(const TokenizerSpec& spec) {
  std::string text = "{\n\"version\": \"1.0\",\n";
  text += "\"truncation\": " + to_json(spec.truncation) + ",\n\"padding\": " + to_json(spec.padding) + ",\n";
  text += "\"added_tokens\": [";
  for (size_t i = 0; i < spec.added.size(); ++i) text += (i == 0 ? "\n" : ",\n") + to_json(spec.added[i]);
  text += "],\n\"normalizer\": " + to_json(spec.normalizer);
  text += ",\n\"pre_tokenizer\": " + to_json(spec.pre_tokenizer);
  text += ",\n\"post_processor\": " + to_json(spec.post_processor);
  text += ",\n\"decoder\": " + to_json(spec.decoder) + ",\n\"model\": ";
  std::visit(ModelWriter{text, spec.pieces, ours(spec)}, spec.model);
  text += "\n}\n";
  return text;
}

}  // namespace capstan
