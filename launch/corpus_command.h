#pragma once
// capstan corpus build|info|verify: text into HDF5 shards, what a corpus holds, and whether every byte of it is good.

#include <functional>

namespace CLI {
class App;
}

namespace capstan {

void add_corpus_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
