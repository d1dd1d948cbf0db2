#pragma once
// capstan corpus build: text into HDF5 shards and a manifest.

#include <functional>

namespace CLI {
class App;
}

namespace capstan {

void add_corpus_build(CLI::App& corpus, std::function<void()>& action);

}  // namespace capstan
