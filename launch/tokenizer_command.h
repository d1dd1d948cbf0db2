#pragma once
// capstan tokenizer train|encode|decode|info: makes a byte-level BPE from text, and uses tokenizers on files or
// standard input.

#include <functional>

namespace CLI {
class App;
}

namespace capstan {

void add_tokenizer_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
