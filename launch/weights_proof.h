#pragma once
// The proof of a conversion: what was written is read back, every parameter compared bit by bit with the source
// (rounded to the type that was written), and both are run on the same tokens. Models that do not fit into the memory
// that is allowed are run with as many of their first layers as do: the rest is compared by its bits alone, and the
// result says so. Rule for callers: a proof that is not good() means that nothing may get its final name.

#include <functional>
#include <string>

#include "io/checkpoint/digest.h"
#include "io/weights/parameter_source.h"

namespace capstan {

struct WeightsProof {
  uint64_t parameters = 0, elements = 0;
  Digest128 source, written;           ///< of all parameters, in declared order, in the written types
  std::vector<std::string> different;  ///< parameters whose bits differ
  int64_t layers = 0, layers_run = 0, tokens = 0;
  double largest_difference = 0.0;  ///< of logits
  double divergence = 0.0;          ///< mean KL in nats, of the written model from the source
  double allowed_divergence = 0.0;
  bool finite = true;

  bool good() const { return different.empty() && finite && divergence <= allowed_divergence; }
  std::string problem() const;  ///< why it is not good
};

struct ProofOptions {
  uint64_t memory = uint64_t{3} << 30;  ///< for the parameters of the model that is run
  int64_t tokens = 32;
  int threads = 0;
};

/// `progress` gets bytes compared so far and in all.
WeightsProof prove_weights(const DecoderConfig& model, const ParameterSet& parameters, ParameterSource& source,
                           ParameterSource& written, const ProofOptions& options,
                           const std::function<void(uint64_t, uint64_t)>& progress);

/// Logits at each of the tokens, one row of model.vocabulary each: of the model with the parameters that `source`
/// holds.
std::vector<std::vector<float>> logits_of(const DecoderConfig& model, ParameterSource& source,
                                          const std::vector<int32_t>& tokens, int threads);

}  // namespace capstan
