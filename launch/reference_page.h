#pragma once
// What the table of settings looks like to a reader: the page docs/config.md, the listing of capstan config, and the
// list of presets. All three are derived from the table; a test holds docs/config.md to it.

#include <string>

namespace capstan {

std::string reference_page();
std::string key_listing();
std::string preset_listing();

}  // namespace capstan
