#pragma once
// How Hugging Face's models rotate, as transformers understands it: rope_scaling wins over rope_parameters, as a whole;
// rope_type over type; a context before the stretching that stands at the top over one that stands inside, and where
// there is none it is the whole context. What comes out says all of this explicitly, so that the rows of a table need
// no defaults. What transformers would stumble over, and what is not expressed here, is refused by name.

#include <cstdint>
#include <string>

#include "io/json_events.h"

namespace capstan {

/// {"rope_scaling": {...}} with rope_type and, where the file has them, rope_theta and partial_rotary_factor; of
/// linear, llama3 and yarn the factor and what belongs to each. `context` is max_position_embeddings. Error bad_data.
JsonValue explicit_rope(const JsonValue& root, int64_t context, const std::string& where);

/// Where the file says it, to name it in a message: "rope_scaling" or "rope_parameters".
std::string rope_place(const JsonValue& root);

}  // namespace capstan
