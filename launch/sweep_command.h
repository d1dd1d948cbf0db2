#pragma once
// `capstan sweep SWEEP.toml`: a ladder of runs from one file; `capstan records`: its table as CSV or JSON.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_sweep_command(CLI::App& app, std::function<void()>& action);
void add_records_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
