#pragma once
// capstan doctor: what is here, what is missing, and what to do about it. Works alone and under mpirun, where all ranks
// take part and rank 0 speaks.

#include <functional>

namespace CLI {
class App;
}

namespace capstan {

void add_doctor_command(CLI::App& app, std::function<void()>& action);

}  // namespace capstan
