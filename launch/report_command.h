#pragma once
// `capstan report DIR`: a sweep as one HTML page, and its figures as SVG and PNG.

#include <CLI/CLI.hpp>
#include <functional>

namespace capstan {

void add_report_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
