#pragma once
// corpus_text: a split as text again, document after document, in pieces of bounded size.

#include <functional>
#include <string_view>

#include "io/corpus/corpus.h"

namespace capstan {

/// Error bad_data naming shard and chunk.
void corpus_text(const Corpus& corpus, Split split, const std::function<void(std::string_view)>& write);

}  // namespace capstan
