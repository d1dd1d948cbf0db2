// label: cpu
// What decides that a job hangs: positions as they are kept and found again, limits as they are learnt, the judgement.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <thread>

#include "parallel/flight_recorder.h"
#include "parallel/hang_judge.h"
#include "parallel/heartbeat.h"
#include "parallel/heartbeat_addresses.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_training.h"

namespace capstan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

FlightPosition position(const char* op, FlightState state, int64_t step = 4) {
  FlightPosition at;
  copy_text("train", at.label.plan.data(), at.label.plan.size());
  copy_text("forward", at.label.part.data(), at.label.part.size());
  copy_text(op, at.label.op.data(), at.label.op.size());
  at.step = step, at.state = state, at.phase = Phase::step, at.collectives = 7;
  return at;
}

RankView view(const FlightPosition& at, double still, double unheard = 0.1, double limit = 30) {
  return {RankView::Link::heard, at, "node", 42, still, unheard, limit, {}};
}

constexpr double kSilence = 4;
const FlightPosition kWaits = position("all-reduce", FlightState::waiting),
                     kWorks = position("matmul", FlightState::working);

// --- the judge

TEST(HangJudge, SomethingMoves) {
  EXPECT_FALSE(judge({view(kWaits, 100), view(kWorks, 1)}, kSilence).hung);
  EXPECT_FALSE(judge({view(kWaits, 29), view(kWorks, 29)}, kSilence).hung);
}

TEST(HangJudge, WhoIsAtWorkIsLate) {
  const Verdict verdict = judge({view(kWaits, 31), view(kWorks, 32), view(kWaits, 31)}, kSilence);
  EXPECT_TRUE(verdict.hung);
  EXPECT_THAT(verdict.late, ElementsAre(1));
  EXPECT_DOUBLE_EQ(verdict.still, 31);
}

TEST(HangJudge, WhoIsSilentIsLateWhereverItStood) {
  const Verdict verdict = judge({view(kWaits, 31), view(kWorks, 31), view(kWaits, 31, 5)}, kSilence);
  EXPECT_TRUE(verdict.hung);
  EXPECT_THAT(verdict.late, ElementsAre(2));
}

TEST(HangJudge, AnUnheardRankAloneIsNoHang) {
  EXPECT_FALSE(judge({view(kWaits, 1), view(kWorks, 500, 500)}, kSilence).hung) << "only its heartbeats are lost";
}

TEST(HangJudge, TheLimitIsThatOfTheRankThatIsWaitedFor) {
  const RankView reads = view(kWorks, 31, 0.1, 300);
  EXPECT_FALSE(judge({view(kWaits, 31, 0.1, 30), reads}, kSilence).hung) << "it may be reading a slow disk";
  EXPECT_TRUE(judge({view(kWaits, 301, 0.1, 30), view(kWorks, 301, 0.1, 300)}, kSilence).hung);
}

TEST(HangJudge, AllMayWaitForEachOther) {
  const Verdict verdict = judge({view(kWaits, 31), view(kWaits, 33)}, kSilence);
  EXPECT_TRUE(verdict.hung);
  EXPECT_THAT(verdict.late, IsEmpty());
}

TEST(HangJudge, WhoHasLeftIsNotWaitedFor) {
  RankView gone = view(kWorks, 1000, 1000);
  gone.link = RankView::Link::left;
  EXPECT_FALSE(judge({view(kWorks, 3), gone}, kSilence).hung);
  EXPECT_FALSE(judge({gone, gone}, kSilence).hung) << "nobody is left";
  gone.link = RankView::Link::lost;
  EXPECT_THAT(lost_ranks({view(kWorks, 3), gone}), ElementsAre(1));
}

TEST(HangJudge, TheTableGroupsRanksAndPutsTheLateFirst) {
  std::vector<RankView> ranks(1024, view(kWaits, 31));
  ranks[700] = view(kWorks, 31, 9);
  ranks[700].condition = "stopped by a signal";
  const std::string table = position_table(ranks, kSilence);
  EXPECT_LT(table.find("700 "), table.find("0-699,701-1023"));
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3);
  EXPECT_THAT(table, HasSubstr("SILENT, stopped by a signal"));
  EXPECT_THAT(table, HasSubstr("train forward: all-reduce (its call 7)"));
  EXPECT_EQ(what_others_wait_for(ranks, kSilence), "ranks 0-699,701-1023 wait in train forward: all-reduce");
  EXPECT_EQ(who(ranks, {700}), "rank 700 on node (process 42, stopped by a signal)");
}

TEST(HangJudge, ListsOfRanksStayShort) {
  EXPECT_EQ(rank_list({3}), "3");
  EXPECT_EQ(rank_list({0, 1, 2, 7, 9, 10}), "0-2,7,9-10");
  std::vector<int> every_other;
  for (int rank = 0; rank < 1000; rank += 2) every_other.push_back(rank);
  EXPECT_EQ(rank_list(every_other), "0,2,4,6,8,10,12,14, ... (500 in all)");
}

// --- limits

TEST(PhaseLimits, AreTheCeilingUntilEnoughIsSeen) {
  PhaseLimits limits(1800);
  for (int i = 0; i < 4; ++i) limits.passed(Phase::step, 20);
  EXPECT_EQ(limits.of(Phase::step), 1800);
  limits.passed(Phase::step, 1);
  EXPECT_EQ(limits.of(Phase::step), 5 * 20) << "five times the slowest";
  limits.passed(Phase::step, 500);
  EXPECT_EQ(limits.of(Phase::step), 1800) << "never above the ceiling";
}

TEST(PhaseLimits, CountEvaluationsAndCheckpointsApart) {
  PhaseLimits limits(1800);
  for (int i = 0; i < 10; ++i) limits.passed(Phase::step, 0.1), limits.passed(Phase::evaluate, 60);
  EXPECT_EQ(limits.of(Phase::step), PhaseLimits::kFloor);
  EXPECT_EQ(limits.of(Phase::evaluate), 300);
  EXPECT_EQ(limits.of(Phase::save), 1800);
  for (int i = 0; i < 10; ++i) limits.passed(Phase::save, 0.1);
  EXPECT_EQ(limits.of(Phase::save), PhaseLimits::kFloorOfFiles);
}

TEST(PhaseLimits, ZeroIsNoLimitAndALowCeilingHolds) {
  PhaseLimits none(0), low(5);
  for (int i = 0; i < 10; ++i) low.passed(Phase::step, 3);
  EXPECT_TRUE(std::isinf(none.of(Phase::start)));
  EXPECT_EQ(low.of(Phase::step), 5);
}

// --- records

class Records : public ::testing::Test {
 protected:
  const support::TemporaryDirectory directory_;
  const std::filesystem::path folder_ = directory_.path();
};

TEST_F(Records, AreFoundAgainInTheFile) {
  FlightRecorder recorder(3, 8, 60);
  recorder.phase(Phase::save, 12);
  ASSERT_EQ(recorder.attach(flight_file(folder_, 3)), "");
  recorder.enter_collective("barrier");
  const auto file = read_flight_file(flight_file(folder_, 3));
  ASSERT_TRUE(file);
  EXPECT_EQ(file->rank, 3);
  EXPECT_EQ(file->ranks, 8);
  EXPECT_EQ(file->pid, ::getpid());
  EXPECT_EQ(file->position.step, 12);
  EXPECT_EQ(file->position.describe(), "checkpoint: barrier over all ranks");
  recorder.leave_collective();
  EXPECT_EQ(read_flight_file(flight_file(folder_, 3))->position.describe(), "checkpoint");
}

TEST_F(Records, OfAnotherMakeAreNone) {
  EXPECT_FALSE(read_flight_file(folder_ / "none"));
  EXPECT_FALSE(read_flight_file(folder_));
  std::ofstream(folder_ / "short") << "capfly02";
  EXPECT_FALSE(read_flight_file(folder_ / "short"));
  std::ofstream(folder_ / "long") << std::string(100000, 'x');
  EXPECT_FALSE(read_flight_file(folder_ / "long"));
  std::string why;
  const auto record = map_flight_record(folder_ / "wild", why);
  ASSERT_TRUE(record) << why;
  record->begin(0, 1);
  FlightPosition wild = kWorks;
  wild.label.op.fill('x'), wild.phase = static_cast<Phase>(200);
  record->write(wild);
  EXPECT_EQ(read_flight_file(folder_ / "wild")->position.describe(), "start") << "an unsound position is no position";
  record->rank = 7;
  EXPECT_FALSE(read_flight_file(folder_ / "wild")) << "rank 7 of 1";
}

TEST_F(Records, StayInMemoryWhereThereIsNoFile) {
  FlightRecorder recorder(0, 1, 60);
  EXPECT_THAT(recorder.attach(folder_ / "no" / "such" / "folder"), HasSubstr("cannot create"));
  recorder.phase(Phase::data, 1);
  EXPECT_EQ(recorder.position().phase, Phase::data);
}

/// Two fields that always change together: whoever sees them differ has read half a position.
TEST(FlightRecord, IsNeverReadHalf) {
  FlightRecord record;
  std::atomic<bool> done{false};
  int64_t torn = 0;
  std::thread reader([&] {
    while (!done) {
      const FlightPosition at = record.read();
      torn += at.step != at.microbatch && at.collectives != 0;
    }
  });
  FlightPosition at = kWorks;
  for (int64_t i = 1; i < 300000; ++i) at.step = at.microbatch = i, at.collectives = 1, record.write(at);
  done = true;
  reader.join();
  EXPECT_EQ(torn, 0);
}

// --- the recorder in a program

class Checking final : public StepObserver {
 public:
  explicit Checking(FlightRecorder& to) : recorder(to) {}
  void before(const Plan& plan, size_t node) override {
    recorder.before(plan, node);
    const FlightPosition at = recorder.position();
    const Node& entered = plan.tape.nodes[node];
    ok = ok && entered.op->name().substr(0, 23) == at.label.op.data() &&
         at.label.part.data() == std::string(name_of(entered.part));
    const bool counted = entered.part == Part::forward || entered.part == Part::backward;
    right_microbatch = right_microbatch && at.microbatch == (counted ? placed : -1);
    ++nodes;
  }
  void after(const Plan& plan, size_t node) override { recorder.after(plan, node); }
  FlightRecorder& recorder;
  int64_t placed = -1;
  int nodes = 0;
  bool ok = true, right_microbatch = true;
};

TEST(FlightRecorder, KnowsOpPartAndMicrobatch) {
  const kernels::Backend backend = kernels::reference_backend();
  const auto self = self_communicator();
  TrainingSpec spec = testing::tiny_spec(testing::tiny_gpt());
  spec.microbatches = 3;
  testing::TinyTraining training(spec, backend, *self);
  FlightRecorder recorder(0, 1, 60);
  recorder.observe(training.program());
  Checking checking(recorder);
  training.program().observe(&checking);
  for (int64_t step = 0; step < 2; ++step) {
    recorder.phase(Phase::step, step);
    training.prepare(step, 1e-2);
    training.training().run_microbatches([&](int64_t m) { training.fill_microbatch(step, m), checking.placed = m; });
    training.training().finish_step();
  }
  EXPECT_GT(checking.nodes, 100);
  EXPECT_TRUE(checking.ok);
  EXPECT_TRUE(checking.right_microbatch);
  EXPECT_EQ(recorder.position().step, 1);
}

// --- addresses

TEST(Watchers, AreSpreadOverHosts) {
  EXPECT_THAT(choose_watchers({"a"}), ElementsAre(0));
  EXPECT_THAT(choose_watchers({"a", "a", "a", "a", "a", "a"}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(choose_watchers({"a", "b"}), ElementsAre(0, 1));
  std::vector<std::string> hosts;
  for (int rank = 0; rank < 64; ++rank) hosts.push_back("host" + std::to_string(rank / 8));
  EXPECT_THAT(choose_watchers(hosts), ElementsAre(0, 1, 8, 16));
}

TEST(Endpoints, AreReadAsWritten) {
  const Endpoint read = Endpoint::parse(Endpoint{1234, {"10.0.0.1", "fd00::1"}}.text());
  EXPECT_EQ(read.port, 1234);
  EXPECT_THAT(read.addresses, ElementsAre("10.0.0.1", "fd00::1"));
  EXPECT_EQ(Endpoint::parse("").port, 0);
}

}  // namespace
}  // namespace capstan
