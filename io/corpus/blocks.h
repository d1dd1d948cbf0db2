#pragma once
// Block: the unit of work of a build, about 1 MiB of input on its way from a reader (bytes) over a parser (documents)
// and the router (pieces, each with its split) to an encoder (tokens) and the writer. What comes out of a build depends
// on documents alone, never on where blocks happen to end.

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint/digest.h"
#include "io/corpus/manifest.h"
#include "io/corpus/megatron_index.h"

namespace capstan {

/// A document of up to this many bytes is encoded whole; a longer one is cut where the tokenizer allows it.
constexpr size_t kWholeDocument = size_t{4} << 20;
/// Where the tokenizer allows no cut within this many bytes, one is made between two characters, and counted.
constexpr size_t kLongestPiece = size_t{16} << 20;
/// What a search for an early cut looks at.
constexpr size_t kCutLook = kWholeDocument + 4;
constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr size_t kLongestLine = size_t{64} << 20;  ///< of JSONL

/// A document, or a stretch of one that is too long for one block.
struct BlockDocument {
  std::string_view text;  ///< in bytes or in texts of the block
  bool begins = true, ends = true;
  uint64_t hash = 0;                   ///< see SplitRule; of a document that begins here
  Digest128 digest;                    ///< of the whole text
  bool has_digest = false;             ///< wanted and known
  std::string metadata;                ///< a line of JSON, without its end
  size_t first_token = 0, tokens = 0;  ///< Megatron: in ids of the block
};

/// A run of text of one document that goes to one split.
struct BlockPiece {
  std::string_view text;
  Split split = Split::train;
  bool begins = false, ends = false;
  bool known = false;     ///< stands in a shard of an earlier run already
  uint64_t hash = 0;      ///< of the document; valid when it ends here
  uint32_t document = 0;  ///< index in the block
  uint64_t text_bytes = 0;
  size_t first_token = 0, tokens = 0;  ///< in tokens of the block
};

struct BadLine {
  size_t before = 0;  ///< index of the document that follows it
  uint64_t line = 0;
  std::string why;
};

struct Block {
  size_t file = 0;          ///< index of the input
  uint64_t first_line = 0;  ///< JSONL: number of the first line in `bytes`
  uint64_t consumed = 0;    ///< bytes on disk read for this block
  std::string bytes;
  std::string texts;                     ///< JSONL: the documents without JSON around them
  std::vector<uint32_t> ids;             ///< Megatron: what `bytes` holds
  uint64_t first_token = 0;              ///< Megatron: number of the first token in `bytes`
  MegatronType token_type{};             ///< Megatron
  int64_t id_before = -1;                ///< Megatron: the token before `bytes` when its document goes on here
  std::vector<BlockDocument> documents;  ///< a reader of text fills text, begins and ends; a parser the rest
  std::vector<BadLine> bad;
  uint64_t empty = 0;        ///< documents without text, left out
  uint64_t forced_cuts = 0;  ///< cuts where the tokenizer allows none
  std::vector<BlockPiece> pieces;
  std::vector<char> tokens;  ///< as they are stored in a shard
  std::exception_ptr error;  ///< instead of all that
  size_t cost = 0;           ///< what it holds of the memory that a build may use
};

}  // namespace capstan
