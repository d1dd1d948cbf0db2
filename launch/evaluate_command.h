#pragma once
// `capstan evaluate --run DIR`: loss of a run's model on a validation split.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_evaluate_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
