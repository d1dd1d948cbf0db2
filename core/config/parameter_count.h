#pragma once
// The number of parameters of a decoder, by closed form: embeddings, positions, blocks with their biases, norms, head.
// The model itself must agree; a test compares them.

#include <cstdint>

#include "core/models/decoder_config.h"

namespace capstan {

int64_t parameter_count(const DecoderConfig& model);

}  // namespace capstan
