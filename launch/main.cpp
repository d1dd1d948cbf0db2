#include <iostream>

#include "launch/command_line.h"

int main(int argc, char** argv) { return capstan::run_command_line(argc, argv, std::cout, std::cerr); }
