#pragma once
// Megatron-LM datasets as blocks. A document's tokens are all its sequences, one after another. Where the tokenizer's
// end of document stands, the document ends: at the very end (what --append-eod writes) that says nothing new, in the
// middle it makes two documents of one. A document of more than 4 Mi tokens comes in stretches.

#include <memory>

#include "io/corpus/block_reader.h"
#include "io/tokenizer/tokenizer.h"

namespace capstan {

/// Error missing_input, bad_data.
std::unique_ptr<BlockReader> open_megatron_blocks(const InputFile& file);

/// Turns the raw ids of such a block into documents with their text: checks every id against the vocabulary, ends
/// documents, decodes. Error bad_data that names file, token and byte.
void parse_megatron_block(Block& block, const InputFile& file, const Tokenizer& tokenizer);

}  // namespace capstan
