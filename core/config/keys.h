#pragma once
// The one table of settings. Adding a key is adding a field to run_config.h and a row to keys.cpp.

#include <string>
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

}  // namespace capstan
