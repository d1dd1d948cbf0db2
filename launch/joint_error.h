#pragma once
// JointError: an error that every rank knows of and throws at the same place, so that it is said once and the ranks
// leave together: nobody waits for anybody, and no rank is killed before it has spoken. What a rank finds alone, by
// work in which it talks to no other, becomes one in on_all_ranks: the ranks tell each other how it went. So a mistake
// that all of them make is rank 0's to say, and one that only the seventh node has (no corpus there) is still said, by
// the first rank that has it.
// Rule: thrown on all ranks or on none; run_on_ranks reports it.

#include <functional>

#include "core/communicator.h"
#include "core/error.h"

namespace capstan {

class JointError : public Error {
 public:
  JointError(const Error& error, bool speaks) : Error(error), speaks_(speaks) {}
  bool speaks() const { return speaks_; }  ///< whether the message is this rank's to print

 private:
  bool speaks_;
};

/// Runs work of each rank's own, in which it must not communicate. When it throws on any of them, all throw a
/// JointError with the code of the first that failed; each message is spoken by one of the ranks that have it.
/// Collective.
void on_all_ranks(Communicator& world, const std::function<void()>& own);

/// For an error that all ranks have found alike, in what they told each other; all of them call it.
[[noreturn]] void throw_jointly(const Communicator& world, const Error& error);

}  // namespace capstan
