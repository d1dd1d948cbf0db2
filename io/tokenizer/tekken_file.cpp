// Mistral's tekken.json: {"config": {"pattern", "default_vocab_size", "default_num_special_tokens"}, "vocab":
// [{"rank", "token_bytes", ...}], "special_tokens": [{"rank", "token_str"}]}. The ids begin with the special tokens,
// the ranks follow; ranks beyond the size that the file says are not in use.

#include <fmt/format.h>

#include "core/error.h"
#include "io/tokenizer/base64.h"
#include "io/tokenizer/component_json.h"
#include "io/tokenizer/token_files.h"

namespace capstan {
namespace {

constexpr uint64_t kMostTekkens = uint64_t{1} << 20;
constexpr size_t kLongestTekken = 4096;

template <typename... Rest>
Error bad_tekken(const std::string& where, fmt::format_string<Rest...> format, Rest&&... rest) {
  return Error::make(ExitCode::bad_data, "{}: {}", where, fmt::format(format, std::forward<Rest>(rest)...));
}

const JsonValue& member_of(const JsonValue& object, std::string_view name, const std::string& where) {
  const JsonValue* value = object.find(name);
  if (value == nullptr) throw bad_tekken(where, "wanted a member \"{}\", there is none", name);
  return *value;
}

/// Files before the list of special tokens came into them mean these.
constexpr const char* kFirstSpecial[] = {"<unk>",
                                         "<s>",
                                         "</s>",
                                         "[INST]",
                                         "[/INST]",
                                         "[AVAILABLE_TOOLS]",
                                         "[/AVAILABLE_TOOLS]",
                                         "[TOOL_RESULTS]",
                                         "[/TOOL_RESULTS]",
                                         "[TOOL_CALLS]",
                                         "[IMG]",
                                         "<pad>",
                                         "[IMG_BREAK]",
                                         "[IMG_END]",
                                         "[PREFIX]",
                                         "[MIDDLE]",
                                         "[SUFFIX]",
                                         "[SYSTEM_PROMPT]",
                                         "[/SYSTEM_PROMPT]",
                                         "[TOOL_CONTENT]"};

std::vector<std::string> special_names(const JsonValue& root, uint64_t count, const std::string& where) {
  std::vector<std::string> names(count);
  if (const JsonValue* list = root.find("special_tokens"); !is_null(list)) {
    for (const JsonValue& token : list->array(where + ": special_tokens")) {
      const uint64_t rank = member_of(token, "rank", where).count(where + ": special_tokens: rank");
      if (rank >= count) throw bad_tekken(where, "special_tokens: wanted ranks below {}, got {}", count, rank);
      names[rank] = member_of(token, "token_str", where).text(where + ": special_tokens: token_str");
    }
  } else {
    for (size_t id = 0; id < std::min<size_t>(count, std::size(kFirstSpecial)); ++id) names[id] = kFirstSpecial[id];
  }
  for (size_t id = 0; id < count; ++id)
    if (names[id].empty()) names[id] = fmt::format("<SPECIAL_{}>", id);
  return names;
}

/// Tokens by id; the special ones are left empty.
std::vector<std::string> tekken_pieces(const JsonValue& root, uint64_t special, uint64_t size,
                                       const std::string& where) {
  std::vector<std::string> pieces(size);
  for (const JsonValue& token : member_of(root, "vocab", where).array(where + ": vocab")) {
    const uint64_t rank = member_of(token, "rank", where).count(where + ": vocab: rank");
    if (rank >= size - special) continue;
    std::optional<std::string> bytes =
        from_base64(member_of(token, "token_bytes", where).text(where + ": vocab: token_bytes"));
    if (!bytes || bytes->empty() || bytes->size() > kLongestTekken)
      throw bad_tekken(where, "vocab: the token of rank {} is not 1 to {} bytes in base64", rank, kLongestTekken);
    std::string& piece = pieces[special + rank];
    if (!piece.empty()) throw bad_tekken(where, "vocab: two tokens have rank {}", rank);
    piece = std::move(*bytes);
  }
  for (uint64_t id = special; id < size; ++id)
    if (pieces[id].empty()) throw bad_tekken(where, "vocab: no token has rank {}", id - special);
  return pieces;
}

}  // namespace

TokenizerSpec read_tekken(std::string_view text, const std::string& where) {
  const JsonValue root = parse_json(text, where);
  const JsonValue& config = member_of(root, "config", where);
  const uint64_t size = member_of(config, "default_vocab_size", where).count(where + ": default_vocab_size");
  const uint64_t special =
      member_of(config, "default_num_special_tokens", where).count(where + ": default_num_special_tokens");
  if (size > kMostTekkens || special >= size)
    throw bad_tekken(where, "wanted a vocabulary of at most {} with fewer special tokens, got {} with {}", kMostTekkens,
                     size, special);
  TokenizerSpec spec = spec_of_ranks(tekken_pieces(root, special, size, where),
                                     member_of(config, "pattern", where).text(where + ": pattern"), where);
  const std::vector<std::string> names = special_names(root, special, where);
  for (uint32_t id = 0; id < names.size(); ++id) {
    spec.pieces[id] = names[id];
    spec.added.push_back({id, names[id], false, false, false, false, true});
  }
  return spec;
}

}  // namespace capstan
