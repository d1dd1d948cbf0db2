#pragma once
// The files in which others keep tokenizers, each read into a TokenizerSpec. All are untrusted: sizes, counts and ids
// are checked before anything is kept. `name` is the file's own name, which some families need to be told apart.

#include <filesystem>
#include <string>
#include <string_view>

#include "io/tokenizer/spec.h"

namespace capstan {

/// SentencePiece's `.model` (a protocol buffer): BPE or Unigram.
TokenizerSpec read_sentencepiece(std::string_view bytes, const std::string& where);

/// tiktoken's ranks (base64 and rank in each line). `pattern`: r50k, p50k, cl100k, o200k, qwen, llama3 or llama4; the
/// merges, which the file does not hold, are found from the ranks.
TokenizerSpec read_tiktoken(std::string_view text, std::string_view pattern, const std::string& where);
/// Finding merges takes the square of each piece's length; Error bad_data where a file would make that a bomb.
void check_merge_work(const std::vector<std::string>& pieces, const std::string& where);
/// A byte-level BPE of tokens by id, as bytes ("": no such token), that merges as tiktoken does.
TokenizerSpec spec_of_ranks(const std::vector<std::string>& pieces, std::string_view expression,
                            const std::string& where);

/// Mistral's tekken.json: ranks in JSON, with the expression, behind a thousand ids for special tokens.
TokenizerSpec read_tekken(std::string_view text, const std::string& where);

/// The pattern that a file's name tells (r50k_base.tiktoken, o200k_base ...), or "".
std::string tiktoken_pattern_of(std::string_view file_name);

/// GPT-2's vocab.json and merges.txt.
TokenizerSpec read_gpt2_files(std::string_view vocabulary, std::string_view merges, const std::string& where);

/// BERT's vocab.txt: a piece in each line. `lowercase`: as the uncased models.
TokenizerSpec read_word_piece_file(std::string_view text, bool lowercase, const std::string& where);

/// Chooses the token that ends documents where spec.end_of_document is empty: `wanted`, else the first of the usual
/// names that there is. Error bad_data when there is none.
void choose_end_of_document(TokenizerSpec& spec, std::string_view wanted, std::string_view configured,
                            const std::string& where);

}  // namespace capstan
