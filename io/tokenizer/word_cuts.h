#pragma once
// Pre-tokenizer steps that cut words where a pattern or a class of characters matches, with the five behaviours that
// Hugging Face gives the matched stretches.

#include <memory>
#include <vector>

#include "io/tokenizer/pre_tokenizer.h"

namespace capstan {

/// Appends the steps of a component that only cuts. Error bad_data naming `where`.
void add_word_cuts(const PreTokenizerSpec& part, const std::string& where,
                   std::vector<std::unique_ptr<WordStep>>& steps);

std::unique_ptr<WordStep> make_literal_cut(const std::string& text, SplitBehavior behavior, bool invert);

}  // namespace capstan
