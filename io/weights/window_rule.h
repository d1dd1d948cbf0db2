#pragma once
// Which layers have a sliding window: others list it layer by layer, a model of ours says it by one rule (window_from,
// global_every, global_first). Here the list becomes the rule, where there is one, and the same list always the same.

#include <cstdint>
#include <optional>
#include <vector>

#include "core/models/decoder_config.h"

namespace capstan {

struct WindowRule {
  int64_t from = 0, global_every = 0, global_first = 0;
};

enum class WindowRuleKind {
  from_first,  ///< of two rules that say the same the one that begins later (Qwen2)
  periodic     ///< the one that repeats from the first layer on (GPT-Neo)
};

/// Nothing where no rule says it. No layer with a window: a rule that leaves none.
std::optional<WindowRule> window_rule(const std::vector<bool>& windowed, WindowRuleKind preferred);

void set_window_rule(DecoderConfig& model, const WindowRule& rule);

/// Layer by layer, whether it has one.
std::vector<bool> windowed_layers(const DecoderConfig& model);

}  // namespace capstan
