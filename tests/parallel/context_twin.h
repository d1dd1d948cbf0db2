#pragma once
// Small decoders under context parallelism and their unsharded twins: what the covering set and the whole product
// share.

#include "tests/parallel/layout_twin.h"

namespace capstan::testing {

constexpr int64_t kContext = 16;

/// Learned positions; rotary with grouped heads; ALiBi and a window that hides some chunks whole.
enum ContextModel { kGpt, kLlama, kWindow };

inline DecoderConfig config_of(ContextModel model) {
  DecoderConfig config = model == kLlama ? tiny_llama() : tiny_gpt();
  config.context = kContext;
  if (model == kWindow) {
    config.head_size = 5, config.positions = Positions::alibi, config.window = 5;
    config.activation = Activation::geglu, config.hidden = 20, config.tied = false;
  }
  return config;
}

inline Layout context(int cp, int tp = 1, int dp = 1) {
  Layout layout;
  layout.cp = cp, layout.tp = tp, layout.dp = dp;
  return layout;
}

inline void expect_context_is_its_twin(ContextModel model, const Layout& layout, double dropout = 0.0,
                                       int64_t microbatches = 1) {
  expect_is_its_twin(model, config_of(model), layout, microbatches, dropout);
}

}  // namespace capstan::testing
