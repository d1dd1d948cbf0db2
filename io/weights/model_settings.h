#pragma once
// Models compared by what their settings stand for: a 0 or an `automatic` is written out first, and what no part of the
// model reads is as in a fresh one. So two models differ exactly where they compute something else.

#include <string>
#include <vector>

#include "core/config/run_config.h"

namespace capstan {

/// With what a 0 or an `automatic` stands for written out, and what no part of the model reads as in a fresh model.
RunConfig resolved_settings(const DecoderConfig& model);

/// Settings in which two models differ, as "window: 0 -> 256"; what cannot matter (initialisation, dropout) is left
/// out, and what a 0 stands for is written out first.
std::vector<std::string> model_differences(const DecoderConfig& a, const DecoderConfig& b);

/// Of settings as "activation=gelu|gelu_tanh" those that the model has otherwise, as "activation = relu, wanted gelu or
/// gelu_tanh".
std::vector<std::string> settings_otherwise(const DecoderConfig& model, const std::vector<const char*>& settings);

}  // namespace capstan
