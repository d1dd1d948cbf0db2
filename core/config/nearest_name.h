#pragma once
// What was probably meant by a wrong name: the "did you mean" of messages. Names that are too far away for a slip of
// the finger are not offered.

#include <string>
#include <string_view>
#include <vector>

namespace capstan {

/// The nearest of some names by edit distance; empty when nothing is near.
std::string nearest_name(std::string_view wrong, const std::vector<std::string>& names);
/// The nearest known key or section to a wrong one; empty when nothing is near. `layers` finds `model.layers`.
std::string nearest_config_name(std::string_view wrong);

}  // namespace capstan
