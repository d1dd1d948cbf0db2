#include "core/config/presets.h"

#include <fmt/format.h>

#include "core/config/config_reader.h"

namespace capstan {

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const EmbeddedFile& file : embedded_presets()) names.emplace_back(file.name);
  return names;
}

std::optional<std::string_view> preset_text(std::string_view name) {
  for (const EmbeddedFile& file : embedded_presets())
    if (file.name == name) return file.text;
  return std::nullopt;
}

DecoderConfig preset_model(const std::string& name) {
  return parse_run_config("", "preset", {"model.preset=" + name}).model;
}

}  // namespace capstan
