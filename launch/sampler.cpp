#include "launch/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/philox.h"

namespace capstan {
namespace {

/// Keeps the shortest prefix of sorted probabilities whose sum reaches top_p.
size_t nucleus(const std::vector<double>& weights, double top_p) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double sum = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum >= top_p * total) return i + 1;
  }
  return weights.size();
}

}  // namespace

int32_t sample_token(const std::vector<float>& logits, const SamplerOptions& options, uint64_t index) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int32_t id) { return !std::isfinite(logits[static_cast<size_t>(id)]); });
  if (order.empty())
    throw Error::make(ExitCode::numerical, "the model gives no finite logit; the checkpoint is unusable");
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (options.temperature == 0.0) return order[0];
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
  std::vector<double> weights;
  const double best = logits[static_cast<size_t>(order[0])];
  for (const int32_t id : order)
    weights.push_back(std::exp((logits[static_cast<size_t>(id)] - best) / options.temperature));
  weights.resize(nucleus(weights, options.top_p));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double rest = total * (static_cast<double>(philox_word(options.seed, 0x73616d70, index)) * 0x1p-32);
  for (size_t i = 0; i < weights.size(); ++i)
    if ((rest -= weights[i]) < 0.0) return order[i];
  return order[weights.size() - 1];
}

}  // namespace capstan
