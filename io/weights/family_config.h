#pragma once
// A model's settings in Hugging Face's words and back, by the tables of io/weights/family.h. Reading a config.json
// gives the family and a DecoderConfig that has passed every check of the config; writing is proved by reading what was
// written: a family is right for a model exactly when it says it back. A config.json is hostile: its size, depth and
// every number in it are checked by the rules of the `model.*` keys.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/models/decoder_config.h"
#include "io/json_events.h"
#include "io/weights/family.h"

namespace capstan {

constexpr uint64_t kMaxModelConfigBytes = uint64_t{4} << 20;

struct FamilyModel {
  const ModelFamily* family = nullptr;
  DecoderConfig model;
};

/// Error bad_data that names `where`, the member, what was wanted and what is there; config for a family or a variant
/// that is not known.
FamilyModel read_model_config(std::string_view text, const std::string& where);

/// The two halves of it, for those who name the family otherwise than by `model_type`: an object within the limits of
/// size and depth, and what one family's table makes of it. Error bad_data.
JsonValue parse_model_config(std::string_view text, const std::string& where);
DecoderConfig read_family_config(const ModelFamily& family, const JsonValue& root, const std::string& where);

/// Members besides those of the table.
struct ConfigExtras {
  std::optional<uint32_t> begin_token, end_token;
  std::string dtype = "float32";
};

/// A config.json for the model.
std::string write_model_config(const ModelFamily& family, const DecoderConfig& model, const ConfigExtras& extras);

/// The family that expresses the model, of the given model_type when not empty. Error config that says for the nearest
/// one which settings it cannot express.
const ModelFamily& family_for(const DecoderConfig& model, std::string_view model_type = {});

std::vector<std::string> known_model_types();

}  // namespace capstan
