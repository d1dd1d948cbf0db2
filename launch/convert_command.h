#pragma once
// capstan convert: models and corpora in and out of other tools' formats, each conversion proved.

#include <functional>

namespace CLI {
class App;
}

namespace capstan {

void add_convert_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
