#pragma once
// What the reader and the writer of a config.json both ask of the tables of io/weights/family.h: the key that a row
// stands for, and whether a row is there at all.

#include <string>
#include <string_view>
#include <vector>

#include "core/config/key.h"
#include "io/weights/family.h"

namespace capstan {

/// "a|b" by '|' is {"a", "b"}; a text without it is itself.
std::vector<std::string> split_at(std::string_view text, char by);

/// The key `model.<name>`. Error config when there is none: a table is wrong.
const Key& model_key(const std::string& name);

/// "activation=gelu" of a table, parted.
struct Setting {
  std::string name, value;
};
Setting parse_setting(std::string_view text);

/// Whether a row that is there only with a certain setting is there.
bool row_applies(const ConfigRow& row, const RunConfig& config);

}  // namespace capstan
