// label: plan
// Schedules: complete, free of deadlock, as long and as wide as their papers say; wrong tables are refused with what
// waits for what.

#include "core/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/schedule_check.h"
#include "core/stages.h"
#include "tests/support/outcome.h"

namespace capstan {
namespace {

using enum ScheduleKind;
using Kind = Action::Kind;
using ::testing::HasSubstr;

Schedule schedule(ScheduleKind kind, int stages, int microbatches, int chunks = 1) {
  return make_schedule(kind, stages, chunks, microbatches);
}

std::string refusal(const std::function<void()>& call) { return support::complaint_of(ExitCode::config, call); }

TEST(Schedules, AllAreCompleteAndCannotStandStill) {
  for (const int p : {1, 2, 3, 4, 8})
    for (const int m : {1, 2, 3, 4, 7, 8, 16, 24}) {
      for (const ScheduleKind kind : {gpipe, one_forward_one_backward, zero_bubble})
        EXPECT_EQ(refusal([&] { check(schedule(kind, p, m), kPathCapacity); }), "") << p << " stages, " << m;
      for (const int v : {2, 3, 4})
        if (m % p == 0)
          EXPECT_EQ(refusal([&] { check(schedule(interleaved, p, m, v), kPathCapacity); }), "")
              << p << " stages of " << v << " chunks, " << m;
    }
}

TEST(Schedules, AreThoseOfThePapers) {
  EXPECT_EQ(schedule(gpipe, 2, 3).to_text(), "F0 F1 F2 B0 B1 B2\nF0 F1 F2 B0 B1 B2\n");
  EXPECT_EQ(schedule(one_forward_one_backward, 3, 4).to_text(),
            "F0 F1 F2 B0 F3 B1 B2 B3\nF0 F1 B0 F2 B1 F3 B2 B3\nF0 B0 F1 B1 F2 B2 F3 B3\n");
  EXPECT_EQ(schedule(interleaved, 2, 4, 2).to_text(),
            "F0.0 F1.0 F0.1 F1.1 F2.0 B0.1 F3.0 B1.1 F2.1 B0.0 F3.1 B1.0 B2.1 B3.1 B2.0 B3.0\n"
            "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0 F3.0 B1.0 F2.1 B2.1 F3.1 B3.1 B2.0 B3.0\n");
  EXPECT_EQ(schedule(zero_bubble, 2, 4).to_text(),
            "F0 F1 B0 W0 F2 B1 W1 F3 B2 W2 B3 W3\nF0 B0 F1 B1 W0 F2 B2 W1 F3 B3 W2 W3\n");
}

/// In units of a forward; a backward is two, of which a weight gradient is one.
TEST(Schedules, BubblesAreThoseOfThePapers) {
  for (const int p : {2, 4, 8})
    for (const int m : {p, 2 * p, 4 * p}) {
      EXPECT_DOUBLE_EQ(play(schedule(gpipe, p, m), {1, 2, 0}).bubble(), 3.0 * (p - 1));
      EXPECT_DOUBLE_EQ(play(schedule(one_forward_one_backward, p, m), {1, 2, 0}).bubble(), 3.0 * (p - 1));
      EXPECT_DOUBLE_EQ(play(schedule(zero_bubble, p, m), {1, 1, 1}).bubble(), 1.0 * (p - 1)) << "(p-1)(F + B - W)";
      for (const int v : {2, 4})  // chunks take 1/v of the time
        EXPECT_NEAR(play(schedule(interleaved, p, m, v), {1.0 / v, 2.0 / v, 0}).bubble(), 3.0 * (p - 1) / v, 1e-9);
    }
}

TEST(Schedules, KeepAsManyMicrobatchesUnderWayAsThePapersSay) {
  for (const int p : {2, 4, 8})
    for (const int m : {1, 3, 4, 16})
      for (int stage = 0; stage < p; ++stage) {
        EXPECT_EQ(under_way(schedule(gpipe, p, m), stage, Kind::forward, Kind::backward), m);
        EXPECT_EQ(under_way(schedule(one_forward_one_backward, p, m), stage, Kind::forward, Kind::backward),
                  std::min(m, p - stage));
        const Schedule zero = schedule(zero_bubble, p, m);
        EXPECT_EQ(under_way(zero, stage, Kind::forward, Kind::backward), std::min(m, p - stage));
        EXPECT_LE(under_way(zero, stage, Kind::forward, Kind::weights), std::min(m, p)) << "no more than 1F1B's first";
      }
}

TEST(Schedules, TellWhatFollowsAtOnceAndHowManyInputsAreNeeded) {
  const Schedule s = schedule(one_forward_one_backward, 3, 4);
  EXPECT_FALSE(together(s, 0, Kind::forward, Kind::backward));
  EXPECT_TRUE(together(s, 2, Kind::forward, Kind::backward));
  EXPECT_EQ(input_copies(s, 0), 3);
  EXPECT_EQ(input_copies(s, 2), 1);
  EXPECT_EQ(input_copies(schedule(gpipe, 3, 5), 1), 5);
  EXPECT_EQ(input_copies(schedule(one_forward_one_backward, 1, 9), 0), 1);
}

TEST(Schedules, ComeBackFromText) {
  for (const Schedule& s : {schedule(interleaved, 2, 4, 2), schedule(zero_bubble, 3, 5), schedule(gpipe, 4, 2)}) {
    const Schedule again = parse_schedule("# a table\n\n" + s.to_text(), s.stages, s.microbatches, "table");
    EXPECT_EQ(again.actions, s.actions);
    EXPECT_EQ(again.chunks, s.chunks);
    EXPECT_EQ(again.splits_weights, s.splits_weights);
  }
}

TEST(Schedules, WordsThatAreNoActionsAreNamedWithTheirLine) {
  for (const char* word : {"G0", "F", "F-1", "Fx", "F0.", "F0.x", "F99999999999", "F0.99999999"})
    EXPECT_THAT(refusal([&] { parse_schedule(std::string("F0 B0\nF0 ") + word + " B0\n", 2, 1, "t.txt"); }),
                ::testing::AllOf(HasSubstr("t.txt:2"), HasSubstr(word)));
  EXPECT_THAT(refusal([] { parse_schedule("F0 B0\n", 2, 1, "t.txt"); }),
              HasSubstr("each of 2 stages (layout.pp), got 1"));
  EXPECT_THAT(refusal([] { parse_schedule("F0 B0\nF0 B0\nF0 B0\n", 2, 1, "t.txt"); }), HasSubstr("t.txt:3"));
}

std::string fault(const std::string& table, int stages, int microbatches) {
  return refusal([&] { check(parse_schedule(table, stages, microbatches, "table"), kPathCapacity); });
}

/// Refusals call an action what the table calls it, and say where its line is.
TEST(Schedules, WrongTablesGetACounterexample) {
  EXPECT_THAT(fault("F0 B0\nF0 F1 B0 B1", 2, 2), HasSubstr("table:1: stage 0 never comes to F1"));
  EXPECT_THAT(fault("# a table\n\nF0 F1 F1 B0 B1\nF0 F1 B0 B1", 2, 2),
              HasSubstr("table:3: stage 0, action 2 (F1) comes twice"));
  EXPECT_THAT(fault("B0 F0\nF0 B0", 2, 1), HasSubstr("(B0) comes before F0"));
  EXPECT_THAT(fault("F0 F1 B1 B0\nF0 F1 B1 B0", 2, 2), HasSubstr("ascending"));
  EXPECT_THAT(fault("F0 F5 B0\nF0 B0", 2, 1), HasSubstr("microbatches 0 to 0"));
  EXPECT_THAT(fault("F0 B0 W0\nF0 W0 B0", 2, 1), HasSubstr("table:2: stage 1, action 1 (W0) comes before B0"));
  for (const char* nothing : {"", "\n\n", "# only a comment\n"})
    EXPECT_THAT(fault(nothing, 2, 1), HasSubstr("a line of actions for each of 2 stages (layout.pp), got 0"));
}

/// The second chunk of a stage is chunk 1 there, whatever its number in the model.
TEST(Schedules, ChunksAreCountedAsTheTableCountsThem) {
  const std::string good = schedule(interleaved, 2, 2, 2).to_text();
  const auto without = [&](size_t line, const std::string& word) {
    std::string table = good;
    const size_t from = line == 0 ? 0 : table.find('\n');
    return table.erase(table.find(word, from), word.size());
  };
  EXPECT_EQ(fault(good, 2, 2), "");
  EXPECT_THAT(fault(without(1, "F1.1"), 2, 2), HasSubstr("table:2: stage 1, "));
  EXPECT_THAT(fault(without(1, "F1.1"), 2, 2), HasSubstr("(B1.1) comes before F1.1"));
  EXPECT_THAT(fault(without(1, "B1.0"), 2, 2), HasSubstr("table:2: stage 1 never comes to B1.0"));
  EXPECT_THAT(fault("F0 F0.1 B0.1 B0\nF0 B0 F0.1 B0.1", 2, 1),
              HasSubstr("table:2: stage 1, action 1 (B0.0) waits for B0.1 on stage 0"));
}

/// Stage 0 wants the gradient of microbatch 0 before it sends microbatch 1, which stage 1 wants before it returns any.
TEST(Schedules, ADeadlockIsShownAsTheRingThatItIs) {
  const std::string ring = fault("F0 B0 F1 B1\nF0 F1 B0 B1", 2, 2);
  EXPECT_THAT(ring, HasSubstr("table:1: stage 0, action 1 (B0) waits for B0 on stage 1"));
  EXPECT_THAT(ring, HasSubstr("table:2: stage 1, action 1 (F1) waits for F1 on stage 0"));
  const std::string full = fault("F0 F1 F2 F3 B0 B1 B2 B3\nF0 B0 F1 B1 F2 B2 F3 B3", 2, 4);
  EXPECT_EQ(full, "") << "gradients wait in their path";
}

TEST(Schedules, InterleavingNeedsWholeGroups) {
  EXPECT_THAT(refusal([] { schedule(interleaved, 4, 6, 2); }),
              ::testing::AllOf(HasSubstr("6"), HasSubstr("nearest: 8")));
}

TEST(Stages, HaveAsEqualWorkAsLayersAllow) {
  DecoderConfig model;
  model.layers = 30, model.width = 1024, model.heads = 16, model.context = 1024, model.vocabulary = 50257;
  for (const auto& [stages, chunks] : {std::pair{4, 4}, {4, 8}, {3, 3}, {16, 16}, {30, 30}, {5, 30}}) {
    const std::vector<int> chunk_of = chunk_of_layers(model, stages, chunks);
    ASSERT_EQ(chunk_of.size(), 30u);
    EXPECT_TRUE(std::is_sorted(chunk_of.begin(), chunk_of.end()));
    std::vector<double> work(static_cast<size_t>(stages));
    std::vector<int> layers(static_cast<size_t>(chunks));
    for (const int c : chunk_of) ++layers[static_cast<size_t>(c)], work[static_cast<size_t>(c % stages)] += 1.0;
    for (const int count : layers) EXPECT_GE(count, 1) << stages << " stages, " << chunks;
    work.back() += head_in_layers(model);
    const double most = *std::max_element(work.begin(), work.end()), mean = (30 + head_in_layers(model)) / stages;
    EXPECT_LT(most, std::max(mean + 1.0, 1.0 * chunks / stages + head_in_layers(model)) + 1e-9);
  }
  EXPECT_THAT(refusal([&] { chunk_of_layers(model, 16, 32); }), HasSubstr("30 layers"));
}

/// Layers of a GPT: 12 C^2 + 2 T C products a token; the head V C.
TEST(Stages, TheHeadCountsAsItsProducts) {
  DecoderConfig model;
  model.layers = 4, model.width = 128, model.heads = 4, model.context = 64, model.vocabulary = 1000;
  EXPECT_DOUBLE_EQ(head_in_layers(model), 128.0 * 1000 / (12.0 * 128 * 128 + 64.0 * 128));
  // Every other layer looks at 16 of 64 places: on average at 2 * 16 - 16^2 / 64 = 28 twice.
  model.window = 16, model.global_every = 2;
  EXPECT_DOUBLE_EQ(head_in_layers(model), 128.0 * 1000 / (12.0 * 128 * 128 + (64.0 + 28.0) / 2 * 128));
  model.window = 0, model.global_every = 0, model.embedding_width = 32;  // 128 x 32 back, then 32 x 1000
  EXPECT_DOUBLE_EQ(head_in_layers(model), (32.0 * 1000 + 128.0 * 32) / (12.0 * 128 * 128 + 64.0 * 128));
}

}  // namespace
}  // namespace capstan
