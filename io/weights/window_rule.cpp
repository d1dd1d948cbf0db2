#include "io/weights/window_rule.h"

#include <algorithm>

namespace capstan {
namespace {

/// From a layer on one of so many has none: the shortest period.
std::optional<WindowRule> rule_from(const std::vector<bool>& windowed, int64_t from) {
  const auto layers = static_cast<int64_t>(windowed.size());
  std::vector<int64_t> global;
  for (int64_t i = from; i < layers; ++i)
    if (!windowed[static_cast<size_t>(i)]) global.push_back(i);
  if (global.empty()) return WindowRule{from, 0, 0};
  const int64_t first = global.front();
  // Two of them give the period; of one the period need only reach beyond both ends.
  const int64_t period =
      global.size() > 1 ? global[1] - first : std::max({first - from + 1, layers - first, int64_t{2}});
  if (first - from >= period || layers - global.back() > period) return std::nullopt;
  for (size_t i = 1; i < global.size(); ++i)
    if (global[i] - global[i - 1] != period) return std::nullopt;
  if (period < 2) return std::nullopt;
  return WindowRule{from, period, first % period};
}

}  // namespace

std::optional<WindowRule> window_rule(const std::vector<bool>& windowed, WindowRuleKind preferred) {
  const auto first = std::find(windowed.begin(), windowed.end(), true);
  const int64_t leading = first - windowed.begin();
  if (first == windowed.end()) return WindowRule{leading, 0, 0};
  const std::optional<WindowRule> later = rule_from(windowed, leading), whole = rule_from(windowed, 0);
  const bool plain = later && later->global_every == 0;
  return (preferred == WindowRuleKind::from_first && plain) || !whole ? later : whole;
}

void set_window_rule(DecoderConfig& model, const WindowRule& rule) {
  model.window_from = rule.from, model.global_every = rule.global_every, model.global_first = rule.global_first;
  if (rule.from < model.layers) return;
  model.window = model.window_from = model.global_every = model.global_first = 0;
}

std::vector<bool> windowed_layers(const DecoderConfig& model) {
  std::vector<bool> windowed;
  for (int64_t i = 0; i < model.layers; ++i) windowed.push_back(model.window_of(i) != 0);
  return windowed;
}

}  // namespace capstan
