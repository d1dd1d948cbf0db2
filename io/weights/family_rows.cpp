#include "io/weights/family_rows.h"

#include "core/config/keys.h"
#include "core/error.h"

namespace capstan {

std::vector<std::string> split_at(std::string_view text, char by) {
  std::vector<std::string> parts;
  while (true) {
    const size_t at = text.find(by);
    parts.emplace_back(text.substr(0, at));
    if (at == text.npos) return parts;
    text.remove_prefix(at + 1);
  }
}

const Key& model_key(const std::string& name) {
  const Key* key = find_config_key("model." + name);
  if (key == nullptr) throw Error::make(ExitCode::config, "models here have no setting model.{}", name);
  return *key;
}

Setting parse_setting(std::string_view text) {
  const size_t equals = text.find('=');
  return {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
}

bool row_applies(const ConfigRow& row, const RunConfig& config) {
  if (*row.when == '\0') return true;
  const Setting setting = parse_setting(row.when);
  const std::string is = std::get<std::string>(model_key(setting.name).get(config));
  for (const std::string& value : split_at(setting.value, '|'))
    if (is == value) return true;
  return false;
}

}  // namespace capstan
