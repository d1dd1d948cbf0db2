// tiktoken's rank files. tiktoken merges, among all neighbours whose joined bytes have a rank, those of least rank, the
// leftmost of equals first; and a word that has a rank is one token whatever the merges would make of it. So every way
// to cut a token into two others is a merge, all of one rank.

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "core/error.h"
#include "io/tokenizer/base64.h"
#include "io/tokenizer/byte_symbols.h"
#include "io/tokenizer/piece_table.h"
#include "io/tokenizer/splitter.h"
#include "io/tokenizer/token_files.h"

namespace capstan {
namespace {

constexpr uint64_t kLargestRank = (uint64_t{1} << 24) - 1;
constexpr size_t kLongestToken = 4096;

struct Special {
  const char* name;
  uint32_t id;
};
struct RankFamily {
  const char* name;
  std::string_view expression;
  std::vector<Special> special;
};

std::vector<RankFamily> families() {
  const std::string_view gpt2 = named_expression("gpt2"), cl100k = named_expression("cl100k");
  const std::string_view qwen2 = named_expression("qwen2"), o200k = named_expression("o200k");
  return {
      {"r50k", gpt2, {{"<|endoftext|>", 50256}}},
      {"p50k", gpt2, {{"<|endoftext|>", 50256}}},
      {"cl100k",
       cl100k,
       {{"<|endoftext|>", 100257},
        {"<|fim_prefix|>", 100258},
        {"<|fim_middle|>", 100259},
        {"<|fim_suffix|>", 100260},
        {"<|endofprompt|>", 100276}}},
      {"o200k", o200k, {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}}},
      {"qwen", qwen2, {{"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645}}},
      {"llama3",
       cl100k,
       {{"<|end_of_text|>", 128001},
        {"<|begin_of_text|>", 128000},
        {"<|start_header_id|>", 128006},
        {"<|end_header_id|>", 128007},
        {"<|eot_id|>", 128009}}},
      {"llama4",
       o200k,
       {{"<|end_of_text|>", 200001},
        {"<|begin_of_text|>", 200000},
        {"<|fim_prefix|>", 200002},
        {"<|fim_middle|>", 200003},
        {"<|fim_suffix|>", 200004},
        {"<|header_start|>", 200005},
        {"<|header_end|>", 200006},
        {"<|eom|>", 200007},
        {"<|eot|>", 200008}}},
  };
}

std::vector<std::string> read_ranks(std::string_view text, const std::string& where) {
  std::vector<std::pair<std::string, uint64_t>> ranks;
  uint64_t largest = 0;
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view one = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (one.ends_with('\r')) one.remove_suffix(1);
    if (one.empty()) continue;
    const size_t space = one.find(' ');
    uint64_t rank = 0;
    std::optional<std::string> bytes;
    if (space != one.npos) {
      bytes = from_base64(one.substr(0, space));  // "=" alone is empty
      const char* last = one.data() + one.size();
      const auto [stop, problem] = std::from_chars(one.data() + space + 1, last, rank);
      if (problem != std::errc() || stop != last) bytes.reset();
    }
    if (bytes && bytes->empty()) continue;  // one published file has such a line
    if (!bytes || bytes->size() > kLongestToken || rank > kLargestRank)
      throw Error::make(ExitCode::bad_data, "{}:{}: wanted a token in base64 and its rank, got \"{}\"", where, line,
                        one.substr(0, 80));
    largest = std::max(largest, rank);
    ranks.emplace_back(std::move(*bytes), rank);
  }
  if (ranks.empty() || largest > ranks.size() * 2 + 4096)
    throw Error::make(ExitCode::bad_data, "{}: {} tokens with ranks up to {}", where, ranks.size(), largest);
  std::vector<std::string> pieces(largest + 1);
  for (auto& [bytes, rank] : ranks) {
    if (!pieces[rank].empty()) throw Error::make(ExitCode::bad_data, "{}: two tokens have rank {}", where, rank);
    pieces[rank] = std::move(bytes);
  }
  return pieces;
}

std::vector<BpeSpec::Merge> merges_of(const std::vector<std::string>& pieces) {
  const PieceTable table(pieces);
  std::vector<BpeSpec::Merge> merges;
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    const std::string_view piece = pieces[id];
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = table.find(piece.substr(0, cut)), right = table.find(piece.substr(cut));
      if (left && right) merges.push_back({*left, *right, id});
    }
  }
  return merges;
}

/// Special tokens are pieces of the vocabulary, for there they may leave gaps, as the published ids do. A vocabulary
/// that these ids do not fit gets the first, which ends documents, behind its pieces.
void add_special(TokenizerSpec& spec, std::vector<Special> special) {
  constexpr size_t kWidestGap = 64;
  bool fits = special.front().id <= spec.pieces.size() + kWidestGap;
  for (const Special& token : special) fits = fits && (token.id >= spec.pieces.size() || spec.pieces[token.id].empty());
  if (!fits) special = {{special.front().name, static_cast<uint32_t>(spec.pieces.size())}};
  for (const Special& token : special) {
    if (token.id >= spec.pieces.size()) spec.pieces.resize(token.id + 1);
    spec.pieces[token.id] = token.name;
    spec.added.push_back({token.id, token.name, false, false, false, false, true});
  }
}

}  // namespace

std::string tiktoken_pattern_of(std::string_view file_name) {
  if (file_name.find("gpt2") != file_name.npos || file_name == "multilingual.tiktoken") return "r50k";  // Whisper's
  for (const char* name : {"o200k", "cl100k", "p50k", "r50k", "qwen", "llama3", "llama4"})
    if (file_name.find(name) != file_name.npos) return name;
  return {};
}

void check_merge_work(const std::vector<std::string>& pieces, const std::string& where) {
  constexpr uint64_t kMost = uint64_t{1} << 32;  // the largest vocabularies in use need a hundredth
  uint64_t work = 0;
  for (const std::string& piece : pieces) work += uint64_t{piece.size()} * piece.size();
  if (work > kMost)
    throw Error::make(ExitCode::bad_data,
                      "{}: tokens too long in all: the squares of their lengths sum to {}, wanted at most {}", where,
                      work, kMost);
}

TokenizerSpec spec_of_ranks(const std::vector<std::string>& pieces, std::string_view expression,
                            const std::string& where) {
  check_merge_work(pieces, where);
  TokenizerSpec spec;
  BpeParts bpe;
  bpe.merges = merges_of(pieces);
  bpe.ignore_merges = true;
  spec.model = std::move(bpe);
  spec.equal_results_tie = true;
  for (const std::string& piece : pieces) spec.pieces.push_back(to_byte_symbols(piece));
  PatternSplit split;
  split.pattern = {std::string(expression), true};
  spec.pre_tokenizer.emplace_back(std::move(split));
  spec.pre_tokenizer.emplace_back(ByteLevel{false, true, false});
  spec.decoder = std::vector<DecoderSpec>{ByteLevel{true, true, true}};
  return spec;
}

TokenizerSpec read_tiktoken(std::string_view text, std::string_view pattern, const std::string& where) {
  for (const RankFamily& family : families()) {
    if (pattern != family.name) continue;
    TokenizerSpec spec = spec_of_ranks(read_ranks(text, where), family.expression, where);
    add_special(spec, family.special);
    return spec;
  }
  throw Error::make(ExitCode::bad_data, "{}: unknown pattern \"{}\"; known: r50k p50k cl100k o200k qwen llama3 llama4",
                    where, pattern);
}

}  // namespace capstan
