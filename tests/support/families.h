#pragma once
// The families of decoders as their tiny presets, made smaller still: every switch of a family, a few thousand
// parameters.

#include <string>
#include <vector>

#include "core/config/presets.h"

namespace capstan::testing {

/// Every preset tiny-<family>.
inline std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const std::string& name : preset_names())
    if (name.starts_with("tiny-")) names.push_back(name.substr(5));
  return names;
}

inline DecoderConfig small_family(const std::string& name, int64_t context) {
  DecoderConfig config = preset_model("tiny-" + name);
  config.layers = std::min<int64_t>(config.layers, 2);
  config.width /= 4, config.hidden /= 4, config.head_size /= 4, config.embedding_width /= 4;
  config.context = context, config.vocabulary = 29;
  if (config.positions == Positions::rotary && config.rotary_dims() < 2) config.rotary_fraction = 0.5;
  if (config.window > 0) config.window = 5;
  if (config.rotary_original_context > 0) config.rotary_original_context = 6;
  config.init_std = 0.15;  // so that every path shows
  return config;
}

/// For the names of parametrised tests.
inline std::string test_name_of_family(std::string name) {
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
}

}  // namespace capstan::testing
