#pragma once
// `capstan inspect CONFIG.toml`: the plan of a run, without running it.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_inspect_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
