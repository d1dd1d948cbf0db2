#pragma once
// The one table of settings. Adding a key is adding a field to run_config.h and a row to keys.cpp.

#include <string_view>
#include <vector>

#include "core/config/key.h"

namespace capstan {

/// Every key, grouped by section in the order in which files and listings show them.
const std::vector<Key>& config_keys();
/// Null when there is no such key.
const Key* find_config_key(std::string_view name);
/// Section names in order: model, data, layout, ...
std::vector<std::string> config_sections();
/// The nearest known key or section to a wrong one; empty when nothing is near. `layers` finds `model.layers`.
std::string nearest_config_name(std::string_view wrong);
/// The nearest of some names by edit distance; empty when nothing is near.
std::string nearest_name(std::string_view wrong, const std::vector<std::string>& names);

}  // namespace capstan
