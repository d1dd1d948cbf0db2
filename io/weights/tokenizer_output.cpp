#include "io/weights/tokenizer_output.h"

#include <fmt/format.h>

#include "io/json_events.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/byte_tokenizer.h"

namespace capstan {
namespace {

constexpr const char* kEndOfText = "<|endoftext|>";

TokenizerSpec spec_of_bytes() {
  TokenizerSpec spec;
  spec.name = "bytes";
  spec.end_of_document = kEndOfText;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    spec.pieces.push_back(to_byte_symbols({&c, 1}));
  }
  spec.added.push_back({ByteTokenizer::kEndOfDocument, kEndOfText, false, false, false, false, true});
  spec.pre_tokenizer.push_back(ByteLevel{false, true, false});
  spec.decoder.emplace().push_back(ByteLevel{});
  spec.model = BpeParts{};
  return spec;
}

}  // namespace

TokenizerSpec exported_spec(const Tokenizer& tokenizer) {
  if (tokenizer.name() == "bytes") return spec_of_bytes();
  return read_tokenizer_json(tokenizer.description(), "the tokenizer");
}

std::vector<std::pair<std::string, std::string>> hugging_face_tokenizer_files(const Tokenizer& tokenizer,
                                                                              int64_t context) {
  const TokenizerSpec spec = exported_spec(tokenizer);
  const std::string end = json_quote(spec.end_of_document);
  return {{"tokenizer.json", write_tokenizer_json(spec)},
          {"tokenizer_config.json",
           fmt::format("{{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"model_max_length\": {},\n  "
                       "\"bos_token\": {},\n  \"eos_token\": {},\n  \"clean_up_tokenization_spaces\": false\n}}\n",
                       context, end, end)},
          {"special_tokens_map.json", fmt::format("{{\n  \"bos_token\": {},\n  \"eos_token\": {}\n}}\n", end, end)}};
}

}  // namespace capstan
