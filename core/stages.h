#pragma once
// Stages: which layers of a model lie on which chunk of a pipeline. Layers are equal; the head costs as many layers as
// its products do, so the stage that carries it gets fewer of them.

#include <vector>

#include "core/models/decoder_config.h"

namespace capstan {

/// FLOPs of the head in those of one layer, for one token of a full context.
double head_in_layers(const DecoderConfig& model);

/// For each layer its chunk, ascending; every chunk has at least one layer. The stage with most work has as little as
/// can be. Throws Error(config) when there are fewer layers than chunks.
std::vector<int> chunk_of_layers(const DecoderConfig& model, int stages, int chunks);

}  // namespace capstan
