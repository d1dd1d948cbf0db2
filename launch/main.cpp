#include <iostream>

#include "launch/command_line.h"
#include "parallel/nccl_session.h"

int main(int argc, char** argv) {
  // Before anything starts a thread, and before the driver wakes, which reads it then: an MPI that knows of GPUs may
  // wake it.
  capstan::prepare_nccl_environment();
  return capstan::run_command_line(argc, argv, std::cout, std::cerr);
}
