#include "core/stages.h"

#include <algorithm>

#include "core/error.h"

namespace capstan {

namespace {

/// Twice the mean number of places that a token of a full context looks at, over layers with and without a window.
double attended(const DecoderConfig& model) {
  const double context = static_cast<double>(model.context);
  double sum = 0.0;
  for (int64_t i = 0; i < model.layers; ++i) {
    const int64_t window = model.window_of(i);
    const double seen = window > 0 ? static_cast<double>(std::min(window, model.context)) : context;
    sum += 2 * seen - seen * seen / context;
  }
  return sum / static_cast<double>(model.layers);
}

}  // namespace

double head_in_layers(const DecoderConfig& model) {
  const double width = static_cast<double>(model.width), embedded = static_cast<double>(model.embedded()),
               query = static_cast<double>(model.heads * model.head()),
               kv = static_cast<double>(model.kv() * model.head()), mlp = static_cast<double>(model.mlp());
  const double layer = width * (2 * query + 2 * kv + (model.gated() ? 3 : 2) * mlp) + attended(model) * query;
  const double projection = model.embedding_width > 0 ? width * embedded : 0.0;
  return (embedded * static_cast<double>(model.vocabulary) + projection) / layer;
}

std::vector<int> chunk_of_layers(const DecoderConfig& model, int stages, int chunks) {
  if (model.layers < chunks)
    throw Error::make(
        ExitCode::config,
        "layout.pp: {} layers cannot be laid on {} chunks ({} stages of {}): each needs a layer; nearest: {}",
        model.layers, chunks, stages, chunks / stages,
        chunks > stages ? fmt::format("layout.interleave = {}", std::max<int64_t>(1, model.layers / stages))
                        : fmt::format("layout.pp = {}", model.layers));
  std::vector<int64_t> layers(static_cast<size_t>(chunks), 1);
  std::vector<double> work(static_cast<size_t>(stages), static_cast<double>(chunks / stages));
  work.back() += head_in_layers(model);
  for (int64_t rest = model.layers - chunks; rest > 0; --rest) {
    const size_t stage = static_cast<size_t>(std::min_element(work.begin(), work.end()) - work.begin());
    size_t least = stage;  // of this stage's chunks, the first with the fewest layers
    for (size_t c = stage; c < layers.size(); c += static_cast<size_t>(stages))
      if (layers[c] < layers[least]) least = c;
    ++layers[least];
    work[stage] += 1.0;
  }
  std::vector<int> chunk_of;
  for (int c = 0; c < chunks; ++c)
    chunk_of.insert(chunk_of.end(), static_cast<size_t>(layers[static_cast<size_t>(c)]), c);
  return chunk_of;
}

}  // namespace capstan
