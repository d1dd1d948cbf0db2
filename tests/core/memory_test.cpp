// label: plan
// The memory pass on random tapes: what is alive together never shares a byte, an input that is read later is never
// written over, the arena holds what is alive at the fullest node, and verify() finds a moved buffer.

#include "core/passes/memory.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/persistent.h"

namespace capstan {
namespace {

/// An op of any number of operands, whose outputs may all take the memory of its inputs.
class Anything final : public Op {
 public:
  explicit Anything(std::vector<InPlace> pairs) : pairs_(std::move(pairs)) {}
  std::string_view name() const override { return "anything"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec>) const override { return {}; }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return {}; }
  std::vector<InPlace> in_place() const override { return pairs_; }
  Bound bind(const BindContext&) const override { return {}; }

 private:
  std::vector<InPlace> pairs_;
};

struct Life {
  int first = -1, last = -1;
};

struct RandomTape {
  Tape tape;
  std::vector<size_t> scratch;

  size_t bytes(TensorId id) const { return static_cast<size_t>(tape.at(id).spec.elements()) * 4; }
  Life life(TensorId id) const {
    Life life;
    for (int i = 0; i < static_cast<int>(tape.nodes.size()); ++i)
      for (const auto* list : {&tape.nodes[static_cast<size_t>(i)].inputs, &tape.nodes[static_cast<size_t>(i)].outputs})
        if (std::find(list->begin(), list->end(), id) != list->end()) {
          if (life.first < 0) life.first = i;
          life.last = i;
        }
    return life;
  }
};

/// Nodes with 0 to 3 inputs of any age, 1 or 2 outputs, sometimes scratch; some inputs are given twice.
RandomTape random_tape() {
  RandomTape made;
  const int count = *rc::gen::inRange(1, 25);
  for (int i = 0; i < count; ++i) {
    Node node;
    const int existing = static_cast<int>(made.tape.tensors.size());
    for (int inputs = existing ? *rc::gen::inRange(0, 4) : 0; inputs > 0; --inputs)
      node.inputs.push_back(*rc::gen::inRange(std::max(0, existing - 6), existing));
    for (int outputs = *rc::gen::inRange(1, 3); outputs > 0; --outputs) {
      node.outputs.push_back(static_cast<TensorId>(made.tape.tensors.size()));
      made.tape.tensors.push_back({"t", {{*rc::gen::inRange<int64_t>(1, 200)}, DType::f32}});
    }
    std::vector<InPlace> pairs;
    for (int out = 0; out < static_cast<int>(node.outputs.size()); ++out)
      for (int in = 0; in < static_cast<int>(node.inputs.size()); ++in) pairs.push_back({out, in});
    node.op = std::make_shared<Anything>(pairs);
    made.tape.nodes.push_back(node);
    made.scratch.push_back(*rc::gen::element<size_t>(0, 0, 100, 4000));
  }
  return made;
}

bool overlap(size_t a, size_t a_bytes, size_t b, size_t b_bytes) { return a < b + b_bytes && b < a + a_bytes; }

RC_GTEST_PROP(Memory, WhatIsAliveTogetherIsApart, ()) {
  const RandomTape random = random_tape();
  const size_t guard = *rc::gen::element<size_t>(0, 64, 100);
  const MemoryPlan plan = plan_memory(random.tape, random.scratch, {guard, *rc::gen::arbitrary<bool>(), true});
  verify(plan);
  const int tensors = static_cast<int>(random.tape.tensors.size());
  for (int a = 0; a < tensors; ++a) {
    const Life alive = random.life(a);
    RC_ASSERT(plan.offset[static_cast<size_t>(a)] + random.bytes(a) + guard <= plan.bytes);
    RC_ASSERT(plan.offset[static_cast<size_t>(a)] % kAlignment == 0u);
    for (int b = 0; b < a; ++b) {
      const Life other = random.life(b);
      if (alive.first > other.last || other.first > alive.last) continue;
      const bool shares = overlap(plan.offset[static_cast<size_t>(a)], random.bytes(a),
                                  plan.offset[static_cast<size_t>(b)], random.bytes(b));
      if (!shares) continue;
      // Only an output that takes the whole place of an input which nothing else reads, at that node or later.
      RC_ASSERT(alive.first == other.last &&
                plan.offset[static_cast<size_t>(a)] == plan.offset[static_cast<size_t>(b)]);
      const Node& node = random.tape.nodes[static_cast<size_t>(alive.first)];
      RC_ASSERT(std::count(node.inputs.begin(), node.inputs.end(), b) == 1);
      RC_ASSERT(std::count(node.outputs.begin(), node.outputs.end(), a) == 1);
    }
    for (int i = alive.first; i <= alive.last; ++i)
      if (random.scratch[static_cast<size_t>(i)] > 0)
        RC_ASSERT(!overlap(plan.offset[static_cast<size_t>(a)], random.bytes(a), plan.scratch[static_cast<size_t>(i)],
                           random.scratch[static_cast<size_t>(i)]));
  }
}

RC_GTEST_PROP(Memory, TheArenaHoldsThePeakAndNoMoreThanTheSum, ()) {
  const RandomTape random = random_tape();
  const MemoryPlan apart = plan_memory(random.tape, random.scratch, {0, false, true});
  size_t most = 0;
  for (int i = 0; i < static_cast<int>(random.tape.nodes.size()); ++i) {
    size_t alive = random.scratch[static_cast<size_t>(i)];
    for (int t = 0; t < static_cast<int>(random.tape.tensors.size()); ++t) {
      const Life life = random.life(t);
      if (life.first <= i && i <= life.last) alive += random.bytes(t);
    }
    most = std::max(most, alive);
  }
  size_t at_peak = 0, everything = 0;
  for (const size_t bytes : apart.at_peak) at_peak += bytes;
  for (const Buffer& buffer : apart.buffers) everything += aligned(buffer.bytes);
  RC_ASSERT(at_peak == most);
  RC_ASSERT(apart.bytes >= most);
  RC_ASSERT(apart.bytes <= everything);
  RC_ASSERT(plan_memory(random.tape, random.scratch, {0, false, false}).bytes == everything);
}

RC_GTEST_PROP(Memory, AMovedBufferIsFound, ()) {
  const RandomTape random = random_tape();
  MemoryPlan plan = plan_memory(random.tape, random.scratch, {});
  const size_t moved = *rc::gen::inRange<size_t>(0, plan.buffers.size());
  Buffer& buffer = plan.buffers[moved];
  if (*rc::gen::arbitrary<bool>()) {
    buffer.offset = plan.bytes - buffer.bytes + 1;
    RC_ASSERT_THROWS_AS(verify(plan), Error);
    return;
  }
  for (size_t other = 0; other < plan.buffers.size(); ++other) {
    const Buffer& there = plan.buffers[other];
    if (other == moved || buffer.first > there.last || there.first > buffer.last) continue;
    buffer.offset = there.offset;
    plan.bytes += buffer.bytes;
    RC_ASSERT_THROWS_AS(verify(plan), Error);
    return;
  }
  RC_DISCARD("nothing is alive together");
}

Tape chain(const std::vector<std::vector<TensorId>>& inputs, const std::vector<InPlace>& pairs) {
  Tape tape;
  for (size_t i = 0; i < inputs.size(); ++i) {
    tape.tensors.push_back({fmt::format("t{}", i), {{100}, DType::f32}});
    tape.nodes.push_back({std::make_shared<Anything>(inputs[i].empty() ? std::vector<InPlace>{} : pairs),
                          inputs[i],
                          {static_cast<TensorId>(i)}});
  }
  return tape;
}

TEST(MemoryInPlace, IsTakenWhenTheInputIsReadForTheLastTime) {
  const MemoryPlan plan = plan_memory(chain({{}, {0}, {1}}, {{0, 0}}), {0, 0, 0}, {});
  EXPECT_EQ(plan.bytes, aligned(400));
  EXPECT_EQ(plan.sum_of_tensors, 3 * aligned(400));
  EXPECT_EQ(plan_memory(chain({{}, {0}, {1}}, {{0, 0}}), {0, 0, 0}, {0, false, true}).bytes, 2 * aligned(400));
}

TEST(MemoryInPlace, IsNotTakenWhenTheInputIsReadLater) {
  const MemoryPlan plan = plan_memory(chain({{}, {0}, {0, 1}}, {{0, 0}}), {0, 0, 0}, {});
  EXPECT_NE(plan.offset[0], plan.offset[1]);
}

/// dx = dy W + sum so far: when the sum is dy itself, the product would read what it has written over.
TEST(MemoryInPlace, IsNotTakenWhenTheOpReadsTheInputTwice) {
  const MemoryPlan plan = plan_memory(chain({{}, {0, 0}}, {{0, 1}}), {0, 0}, {});
  EXPECT_NE(plan.offset[0], plan.offset[1]);
}

TEST(MemoryParts, ForwardAndBackwardAreOneReplayAndTheOthersAreNot) {
  Tape tape = chain({{}, {0}}, {});
  tape.nodes[1].part = Part::backward;
  EXPECT_NO_THROW(plan_memory(tape, {0, 0}, {}));
  for (const Part part : {Part::begin, Part::carry, Part::store, Part::update}) {
    tape.nodes[1].part = part;
    EXPECT_THROW(plan_memory(tape, {0, 0}, {}), Error) << name_of(part);
  }
}

}  // namespace
}  // namespace capstan
