#pragma once
// capstan config: lists all keys, prints the reference page or the presets, or checks a config file and prints it as
// effective.

#include <functional>

namespace CLI {
class App;
}

namespace capstan {

void add_config_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
