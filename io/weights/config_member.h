#pragma once
// One member of a config.json: found by the alternatives of a table's row, and said as a word or a number. A null is
// there: what it means is the row's to say, and often it is not what a missing member means.

#include <optional>
#include <string>
#include <string_view>

#include "io/json_events.h"

namespace capstan {

struct ConfigMember {
  const JsonValue* value = nullptr;  ///< null when none of the alternatives is there
  std::string path;                  ///< where it was found; the last alternative when it was not
};

/// The first that is there of "hidden_size|a.b": after a ? a null counts as not there.
ConfigMember find_config_member(const JsonValue& root, std::string_view alternatives);

bool is_json_null(const JsonValue& value);

/// A truth value, a text or a number as a word.
std::string json_word(const JsonValue& value);

/// As it would stand in the file, cut off when long; for lists and objects what they are.
std::string shown_json(const JsonValue& value);

std::optional<double> json_number(const JsonValue& value);

}  // namespace capstan
