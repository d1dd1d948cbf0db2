#include "launch/command_line_ranks.h"

#include <iostream>
#include <optional>

#include "launch/command_line.h"
#include "parallel/nccl_session.h"

namespace capstan {

void run_on_ranks(const MpiOptions& options, const std::function<void(MpiSession&)>& body) {
  std::optional<ExitRequest> request;
  prepare_nccl_environment();  // before the driver wakes, which reads it then: an MPI that knows of GPUs may wake it
  {
    MpiSession session(options);
    try {
      body(session);
    } catch (const ExitRequest& asked) {
      request = asked;
    } catch (...) {
      request = ExitRequest{report_failure(std::cerr)};
      if (session.launched()) session.world().abort("a rank failed", request->code);
    }
  }
  if (request) throw *request;
}

}  // namespace capstan
