#include "launch/joint_error.h"

#include <charconv>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "parallel/hang_judge.h"

namespace capstan {
namespace {

/// What the others are told of a failure: its code and its message; nothing where there is none.
std::string telling(const std::function<void()>& own) {
  try {
    own();
    return "";
  } catch (const Error& e) {
    return fmt::format("{} {}", static_cast<int>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return fmt::format("{} out of memory", static_cast<int>(ExitCode::internal));
  } catch (const std::exception& e) {
    return fmt::format("{} {} (our own fault: please report it)", static_cast<int>(ExitCode::internal), e.what());
  }
}

Error told(const std::string& telling) {
  int code = static_cast<int>(ExitCode::internal);
  const char* end = telling.data() + telling.size();
  const char* rest = std::from_chars(telling.data(), end, code).ptr;
  return Error(static_cast<ExitCode>(code), std::string(rest == end ? rest : rest + 1, end));
}

}  // namespace

void on_all_ranks(Communicator& world, const std::function<void()>& own) {
  const std::string mine = telling(own);
  const std::vector<std::string> all = gather_strings(world, mine);
  std::vector<int> alike, failed;
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::string& other = all[static_cast<size_t>(rank)];
    if (!other.empty()) failed.push_back(rank);
    if (!mine.empty() && other == mine) alike.push_back(rank);
  }
  if (failed.empty()) return;
  const ExitCode code = told(all[static_cast<size_t>(failed.front())]).code();
  if (mine.empty())  // nobody reads it
    throw JointError(Error::make(code, "rank {} failed", failed.front()), false);
  std::string message = told(mine).what();
  if (alike.size() > 1 && alike.size() < all.size()) message += fmt::format(" (on ranks {})", rank_list(alike));
  throw JointError(Error(code, message), alike.front() == world.rank());
}

void throw_jointly(const Communicator& world, const Error& error) { throw JointError(error, world.rank() == 0); }

}  // namespace capstan
