#include "io/tokenizer/trained_tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/pipeline.h"

namespace capstan {

std::unique_ptr<Tokenizer> make_byte_level_tokenizer(BpeSpec bpe, std::string expression,
                                                     std::vector<std::string> special_tokens, std::string name) {
  constexpr const char* kEnd = "<|endoftext|>";
  TokenizerSpec spec;
  spec.name = std::move(name);
  spec.end_of_document = kEnd;
  for (const std::string& piece : bpe.pieces) spec.pieces.push_back(to_byte_symbols(piece));
  BpeParts model;
  model.merges = std::move(bpe.merges);
  model.ignore_merges = bpe.ignore_merges;
  spec.model = std::move(model);
  if (expression.empty()) {
    spec.pre_tokenizer.push_back(ByteLevel{false, true, true});
  } else {
    spec.pre_tokenizer.push_back(PatternSplit{{std::move(expression), true}, SplitBehavior::isolated, false});
    spec.pre_tokenizer.push_back(ByteLevel{false, true, false});
  }
  spec.decoder = std::vector<DecoderSpec>{ByteLevel{true, true, true}};
  spec.post_processor = parse_json(
      R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true})", "post_processor");
  if (std::find(special_tokens.begin(), special_tokens.end(), kEnd) == special_tokens.end())
    special_tokens.emplace_back(kEnd);
  auto id = static_cast<uint32_t>(spec.pieces.size());
  for (std::string& token : special_tokens) {
    const bool again = std::any_of(spec.added.begin(), spec.added.end(),
                                   [&](const AddedToken& before) { return before.content == token; });
    if (std::find(spec.pieces.begin(), spec.pieces.end(), to_byte_symbols(token)) != spec.pieces.end())
      throw Error::make(ExitCode::bad_data,
                        "special tokens: \"{}\" is already a {}; wanted a name that the text does not hold, such as "
                        "<|{}|>",
                        token, token.size() == 1 ? "byte token" : "token learned from the text", token);
    if (token.empty() || again)
      throw Error::make(ExitCode::bad_data, "special tokens: \"{}\" is {}", token, again ? "named twice" : "empty");
    spec.added.push_back({id++, std::move(token), false, false, false, false, true});
  }
  return std::make_unique<PipelineTokenizer>(std::move(spec), "trained tokenizer");
}

}  // namespace capstan
