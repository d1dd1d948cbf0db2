#pragma once
// Models in the layout that Meta publishes, and Mistral beside Hugging Face's: params.json and
// consolidated.safetensors. Names and members are a table like any family's; heads are ordered for rotation of pairs,
// so rows of q and k are turned. params.json leaves out what follows from the tensors or from a formula: that is filled
// in before the table is read. Such directories are only read: what is written is Hugging Face's layout.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "core/models/decoder_config.h"
#include "io/weights/family.h"
#include "io/weights/tensor_files.h"

namespace capstan {

inline constexpr const char* kMetaParams = "params.json";
inline constexpr const char* kMetaWeights = "consolidated.safetensors";
inline constexpr const char* kMetaPickle = "consolidated.00.pth";  ///< how Meta publishes it; refused

const ModelFamily& meta_family();

/// consolidated.safetensors; a pickle alone is refused with the way out. Error missing_input, bad_data or io_error.
std::unique_ptr<TensorFiles> open_meta_weights(const std::filesystem::path& directory);

/// Error bad_data that names `where`, the member, what was wanted and what is there.
DecoderConfig read_meta_params(std::string_view text, const TensorFiles& files, const std::string& where);

}  // namespace capstan
