#pragma once
// `capstan generate --run DIR`: continues a prompt with the model of a run.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_generate_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
