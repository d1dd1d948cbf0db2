#pragma once
// `capstan bench step`: how fast a training step is, against the machine's own product ceiling measured in between.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_bench_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
