#pragma once
// A list in a config.json of what kind each layer is, as which layers have a sliding window: ["global", "local"], or in
// periods [[["global", "local"], 12]]. Hostile as the rest: no more is unrolled than there are layers.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/json_events.h"

namespace capstan {

struct LayerKinds {
  const char *without_window, *with_window;
  bool in_periods;  ///< may be
};

using MemberComplaint = std::function<Error(const std::string& wanted, const std::string& got)>;

/// Layer by layer, whether it has a window: as many as there are layers. Otherwise what `bad` makes is thrown.
std::vector<bool> windows_of_kinds(const JsonValue& list, const LayerKinds& kinds, int64_t layers,
                                   const MemberComplaint& bad);

}  // namespace capstan
