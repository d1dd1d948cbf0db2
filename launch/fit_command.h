#pragma once
// `capstan fit`: scaling laws from a table of runs, with a certificate, intervals and decisions.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_fit_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
