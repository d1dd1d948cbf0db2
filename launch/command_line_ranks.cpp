#include "launch/command_line_ranks.h"

#include <iostream>
#include <optional>

#include "launch/command_line.h"
#include "launch/joint_error.h"

namespace capstan {

void run_on_ranks(const MpiOptions& options, const std::function<void(MpiSession&)>& body) {
  std::optional<ExitRequest> request;
  {
    MpiSession session(options);
    try {
      body(session);
    } catch (const ExitRequest& asked) {
      request = asked;
    } catch (const JointError&) {
      request = ExitRequest{report_failure(std::cerr)};
      session.world().barrier();  // a launcher ends the others when the first has left
    } catch (...) {
      request = ExitRequest{report_failure(std::cerr)};
      if (session.launched()) session.world().abort("a rank failed", request->code);
    }
  }
  if (request) throw *request;
}

}  // namespace capstan
