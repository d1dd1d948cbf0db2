#include "launch/command_line_ranks.h"

#include <iostream>
#include <optional>

#include "launch/command_line.h"
#include "launch/joint_error.h"

namespace capstan {

void run_on_ranks(const MpiOptions& options, const std::function<void(MpiSession&)>& body) {
  run_on_ranks(options, [&](MpiSession& session, StartWatch& start) {
    start.over();
    body(session);
  });
}

void run_on_ranks(const MpiOptions& options, const std::function<void(MpiSession&, StartWatch&)>& body) {
  std::optional<ExitRequest> request;
  {
    StartWatch start(options.start_seconds);
    MpiSession session(options);
    start.goes_on("behind MPI_Init, where the ranks first talk");
    try {
      body(session, start);
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
