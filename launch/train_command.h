#pragma once
// `capstan train CONFIG.toml [key.path=value ...]`: one rank of a run, alone or under mpirun.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_train_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
