#pragma once
// Judges from what is known of every rank whether the job hangs, and who is to blame. A job hangs when nothing moves:
// no rank that is still there has been seen at another position for longer than the limit. That limit is the one of
// the ranks that keep the others waiting, those at work and those that have fallen silent, since only they know what
// they are doing; a rank that waits in a collective is late through no fault of its own.
// Pure: no clock, no socket.

#include <string>
#include <vector>

#include "parallel/flight_record.h"

namespace capstan {

struct RankView {
  enum class Link : uint8_t {
    unheard,  ///< no heartbeat has come yet
    heard,
    left,  ///< said goodbye: done, or about to report a failure of its own
    lost,  ///< the connection ended without a goodbye: the process is gone
  };
  Link link = Link::unheard;
  FlightPosition position;
  std::string host;
  int pid = 0;
  double still = 0.0;     ///< seconds since it was last seen at another position
  double unheard = 0.0;   ///< seconds since its last heartbeat
  double limit = 0.0;     ///< its own, for the phase it is in
  std::string condition;  ///< what else is known of the process, such as "stopped by a signal"

  bool silent(double silence) const { return link == Link::unheard || link == Link::lost || unheard > silence; }
  bool there() const { return link == Link::unheard || link == Link::heard; }
};

struct Verdict {
  bool hung = false;
  std::vector<int> late;  ///< who keeps the others waiting; empty when all wait in collectives
  double still = 0.0;     ///< seconds for which nothing has moved
  double limit = 0.0;
};

/// silence: seconds after which a rank that is not heard counts as stopped.
Verdict judge(const std::vector<RankView>& ranks, double silence);
std::vector<int> lost_ranks(const std::vector<RankView>& ranks);

/// One line a group of ranks that stand alike, the late ones first.
std::string position_table(const std::vector<RankView>& ranks, double silence);
/// "1", "0-3, 7 and 11-12", at most a few runs.
std::string rank_list(const std::vector<int>& ranks);
/// "rank 1 on node-a (process 77, stopped by a signal)", or how many there are.
std::string who(const std::vector<RankView>& ranks, const std::vector<int>& which);
/// What those wait in who wait, as "rank 0 waits in update: all-reduce dp ..."; empty when nobody does.
std::string what_others_wait_for(const std::vector<RankView>& ranks, double silence);

}  // namespace capstan
