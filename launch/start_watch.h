#pragma once
// StartWatch: until the heartbeat is there, a rank that does not come would be waited for without end: in MPI_Init, or
// where the ranks first talk. A thread beside the start looks at the clock; when the limit has passed it says which
// rank of which host waits in what, and which ranks of this host are not where they should be, and ends the job with
// code 76. The clever thing is where it looks: in the processes of this host that carry the same job's environment, so
// that a rank that was stopped, or whose wrapper has not started the program, has a name although it never spoke.
// One rank of each host that knows such a name speaks first, then rank 0, then all others: the launcher ends those that
// have not spoken.
// Rule: made on the main thread before MPI is (the environment is read then); a process of no launcher, or of one that
// started no other, has no thread.

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace capstan {

/// Who this process is to its launcher; rank -1: started by none.
struct LaunchedAs {
  int rank = -1, ranks = 0, ranks_here = 0;
  std::string job;  ///< "NAME=VALUE" of its environment, equal in all processes of the job; may be empty

  bool waits_for_others() const { return rank >= 0 && ranks != 1; }  ///< 0: it does not say how many there are
};
LaunchedAs launched_as();

class StartWatch {
 public:
  explicit StartWatch(double seconds);  ///< 0: no limit
  ~StartWatch();
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;

  /// What is waited in from now on; at first that is MPI_Init.
  void goes_on(const std::string& where);
  /// All ranks have come. Ends the thread.
  void over();

 private:
  void run();
  bool over_within(double seconds);
  std::string text(double waited, const std::string& absent);

  double seconds_;
  LaunchedAs own_;
  int launcher_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string where_ = "in MPI_Init";
  bool over_ = false;
  std::thread thread_;
};

}  // namespace capstan
