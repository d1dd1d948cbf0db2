#pragma once
// Model presets: the TOML files of configs/models/, embedded into the library at build time (cmake/embed.cmake), so
// that the binary needs no files beside it. A preset holds a [model] section and nothing else.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/models/decoder_config.h"

namespace capstan {

struct EmbeddedFile {
  std::string_view name;  ///< without folder and suffix: "gpt2-124m"
  std::string_view text;
};

/// Defined by the generated source; sorted by name.
std::span<const EmbeddedFile> embedded_presets();

std::vector<std::string> preset_names();
/// Null text when there is no such preset.
std::optional<std::string_view> preset_text(std::string_view name);
/// The model of a preset; Error(config) that names the nearest for an unknown one.
DecoderConfig preset_model(const std::string& name);

}  // namespace capstan
