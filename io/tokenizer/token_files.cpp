// GPT-2's and BERT's vocabulary files.

#include "io/tokenizer/token_files.h"

#include <fmt/format.h>

#include "core/error.h"
#include "io/tokenizer/component_json.h"

namespace capstan {
namespace {

/// Calls line(text) for each line, without its end.
template <typename Line>
void each_line(std::string_view text, Line&& line) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view one = text.substr(0, end);
    if (one.ends_with('\r')) one.remove_suffix(1);
    line(one);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void add_special(TokenizerSpec& spec, const std::string& name) {
  for (uint32_t id = 0; id < spec.pieces.size(); ++id)
    if (spec.pieces[id] == name) spec.added.push_back({id, name, false, false, false, false, true});
}

}  // namespace

/// Made into a tokenizer.json, which reads vocabulary and merges with all checks.
TokenizerSpec read_gpt2_files(std::string_view vocabulary, std::string_view merges, const std::string& where) {
  std::string list;
  each_line(merges, [&](std::string_view line) {
    if (line.empty() || line.starts_with("#version")) return;
    list += (list.empty() ? "" : ",") + json_quote(line);
  });
  const std::string text =
      fmt::format("{{\"model\": {{\"type\": \"BPE\", \"vocab\": {}, \"merges\": [{}]}}}}", vocabulary, list);
  TokenizerSpec spec = read_tokenizer_json(text, where);
  spec.pre_tokenizer.emplace_back(ByteLevel{false, true, true});
  spec.decoder = std::vector<DecoderSpec>{ByteLevel{true, true, true}};
  add_special(spec, "<|endoftext|>");
  return spec;
}

TokenizerSpec read_word_piece_file(std::string_view text, bool lowercase, const std::string& where) {
  TokenizerSpec spec;
  each_line(text, [&](std::string_view line) { spec.pieces.emplace_back(line); });
  if (spec.pieces.empty() || spec.pieces.size() > (size_t{1} << 24))
    throw Error::make(ExitCode::bad_data, "{}: wanted a piece in each line, got {} lines", where, spec.pieces.size());
  spec.model = WordPieceParts{};
  spec.normalizer.emplace_back(BertNormalizer{true, true, std::nullopt, lowercase});
  spec.pre_tokenizer.emplace_back(BertSplit{});
  spec.decoder = std::vector<DecoderSpec>{WordPieceDecoder{}};
  for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) add_special(spec, name);
  std::string before, after, declared;
  for (const AddedToken& token : spec.added) {
    if (token.content != "[CLS]" && token.content != "[SEP]") continue;
    (token.content == "[CLS]" ? before : after) =
        fmt::format("{{\"SpecialToken\": {{\"id\": \"{}\", \"type_id\": 0}}}}", token.content);
    declared += fmt::format("{0}\"{1}\": {{\"id\": \"{1}\", \"ids\": [{2}], \"tokens\": [\"{1}\"]}}",
                            declared.empty() ? "" : ", ", token.content, token.id);
  }
  if (!before.empty() && !after.empty())
    spec.post_processor = parse_json(
        fmt::format("{{\"type\": \"TemplateProcessing\", \"single\": [{0}, {{\"Sequence\": {{\"id\": \"A\", "
                    "\"type_id\": 0}}}}, {1}], \"pair\": [{0}, {{\"Sequence\": {{\"id\": \"A\", \"type_id\": 0}}}}, "
                    "{1}, {{\"Sequence\": {{\"id\": \"B\", \"type_id\": 1}}}}, {1}], \"special_tokens\": {{{2}}}}}",
                    before, after, declared),
        where);
  return spec;
}

}  // namespace capstan
