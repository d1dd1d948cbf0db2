#include <iostream>

#include "launch/command_line.h"
#include "parallel/nccl_session.h"

int main(int argc, char** argv) {
  // Before anything starts a thread or asks the driver for its devices, which reads the environment.
  capstan::prepare_nccl_environment();
  return capstan::run_command_line(argc, argv, std::cout, std::cerr);
}
