#pragma once
// Draws the next token from logits: temperature, then top-k, then top-p (nucleus; Holtzman et al., 2020). The draw is a
// pure function of (seed, index of the token), so a sample can be repeated.

#include <cstdint>
#include <vector>

namespace capstan {

struct SamplerOptions {
  double temperature = 0.8;  ///< 0: always the likeliest
  int64_t top_k = 0;         ///< 0: all
  double top_p = 1.0;
  uint64_t seed = 1;
};

/// Throws Error(numerical) when no logit is finite.
int32_t sample_token(const std::vector<float>& logits, const SamplerOptions& options, uint64_t index);

}  // namespace capstan
