// label: plan
// What the recorder inserts where placements do not fit, forward and backward: the table of conversions, the adjoint of
// each, and the collectives of tensor parallel layers, read off small tapes.

#include "core/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/conversion.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"

namespace capstan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Names = std::vector<std::string>;

Placements on_tp(Placement placement) { return with({}, Axis::tp, placement); }

/// A tape over two tensor parallel ranks. Tensors: (2, 4, 8) unless told.
class Conversions : public ::testing::Test {
 protected:
  Recorder recorder() { return Recorder(mesh_, space_, parameters_, {true, DType::f32}); }

  void input(const std::string& name, Placement placement, Shape shape = {2, 4, 8}, DType dtype = DType::f32) {
    space_.add(name, {std::move(shape), dtype, on_tp(placement)}, Purpose::input);
  }
  int parameter(const std::string& name, const Shape& shape, Placement placement, Placement gradient) {
    space_.add(name, {shape, DType::f32, on_tp(placement)}, Purpose::parameter);
    space_.add("gradient." + name, {shape, DType::f32, on_tp(gradient)}, Purpose::gradient);
    return parameters_.declare({name, shape, {}, true, false});
  }
  void loss_of(Recorder& r, Value logits) {
    const Shape& shape = r.shape(logits);
    if (space_.find("targets") < 0) {
      input("targets", Replicate, {shape[0], shape[1]}, DType::i32), input("weights", Replicate, {shape[0], shape[1]});
      input("step.scalars", Replicate, {kernels::kStepScalars}, DType::f64), input("loss", Replicate, {1}, DType::f64);
    }
    cross_entropy(r, logits, r.persistent("targets"), r.persistent("weights"), r.persistent("loss"), shape[2]);
  }
  /// Names of the nodes that communicate or slice.
  static Names conversions(const Tape& tape, Part part) {
    Names names;
    for (const Node& node : tape.nodes)
      if (node.part == part && node.op->is_collective())
        names.push_back(std::string(node.op->name()) + " " + node.op->attributes());
    return names;
  }
  static Names forward(Recorder& r) { return conversions(r.tape(), Part::forward); }
  static Names backward(Recorder& r) { return conversions(r.tape(), Part::backward); }
  Placement placed(Recorder& r, Value value) { return on(r.spec(value).placements, Axis::tp); }

  Mesh mesh_{{1, 1, 1, 2, 1}, 0};
  PersistentSpace space_{mesh_};
  ParameterSet parameters_;
};

TEST_F(Conversions, TableOfForwardConversions) {
  input("partial", Partial), input("shard", Shard(1)), input("whole", Replicate);
  Recorder r = recorder();
  r.convert(r.persistent("partial"), Axis::tp, Replicate);
  r.convert(r.persistent("partial"), Axis::tp, Shard(1));
  r.convert(r.persistent("shard"), Axis::tp, Replicate);
  r.convert(r.persistent("shard"), Axis::tp, Shard(0));
  r.convert(r.persistent("whole"), Axis::tp, Shard(2));
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R", "reduce-scatter tp P->S(1)", "all-gather tp S(1)->R",
                                      "all-to-all tp S(1)->S(0)", "slice tp R->S(2)"));
  verify(r.tape(), "record");
}

TEST_F(Conversions, WhatFitsOrHasOneRankStaysAsItIs) {
  input("shard", Shard(1));
  Recorder r = recorder();
  const Value value = r.persistent("shard");
  EXPECT_EQ(r.convert(value, Axis::tp, Shard(1)).id, value.id);
  EXPECT_EQ(r.convert(value, Axis::dp, Shard(0)).id, value.id);
  EXPECT_THAT(forward(r), IsEmpty());
}

TEST_F(Conversions, NothingBecomesPartial) {
  EXPECT_THROW(make_conversion(Axis::tp, Replicate, Partial), Error);
  EXPECT_THROW(make_conversion(Axis::tp, Shard(0), Partial), Error);
  EXPECT_THROW(make_conversion(Axis::tp, Shard(0), Shard(0)), Error);
}

TEST_F(Conversions, PartialPassesThroughWhatIsLinearAndNoFurther) {
  input("a", Partial), input("b", Partial), input("whole", Replicate);
  Recorder r = recorder();
  const Value sum = add(r, r.persistent("a"), r.persistent("b"));
  EXPECT_EQ(placed(r, sum), Partial);
  EXPECT_EQ(placed(r, scale(r, sum, 0.5)), Partial);
  EXPECT_EQ(placed(r, cast(r, sum, DType::f32)), Partial);
  EXPECT_THAT(forward(r), IsEmpty());
  EXPECT_EQ(placed(r, cast(r, sum, DType::bf16)), Replicate) << "rounding is not linear";
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R"));
  EXPECT_EQ(placed(r, add(r, sum, r.persistent("whole"))), Replicate);
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R")) << "a conversion is made once and shared";
}

TEST_F(Conversions, ABiasIsAddedOnce) {
  input("partial", Partial);
  const int weight = parameter("w", {8, 8}, Replicate, Replicate), bias = parameter("b", {8}, Replicate, Replicate);
  Recorder r = recorder();
  EXPECT_EQ(placed(r, linear(r, r.persistent("partial"), r.parameter(weight), {})), Partial);
  EXPECT_THAT(forward(r), IsEmpty());
  EXPECT_EQ(placed(r, linear(r, r.persistent("partial"), r.parameter(weight), r.parameter(bias))), Replicate);
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R"));
}

/// norm -> column parallel -> row parallel -> norm: one all-reduce forward, after the row parallel product, and one
/// backward, into the column parallel one.
TEST_F(Conversions, ColumnThenRowParallel) {
  input("x", Replicate);
  const int scale_in = parameter("n1", {8}, Replicate, Replicate),
            scale_out = parameter("n2", {8}, Replicate, Replicate);
  const int up = parameter("up", {16, 8}, Shard(0), Shard(0)), bias = parameter("up.bias", {16}, Shard(0), Shard(0));
  const int down = parameter("down", {8, 16}, Shard(1), Shard(1));
  Recorder r = recorder();
  const Value x = norm(r, r.persistent("x"), {}, r.parameter(scale_in), {}, true, 1e-5).y;
  const Value hidden = linear(r, x, r.parameter(up), r.parameter(bias));
  EXPECT_EQ(placed(r, hidden), Shard(2));
  const Value y = linear(r, hidden, r.parameter(down), {});
  EXPECT_EQ(placed(r, y), Partial);
  loss_of(r, norm(r, y, {}, r.parameter(scale_out), {}, true, 1e-5).y);
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R"));
  record_backward(r);
  EXPECT_THAT(backward(r), ElementsAre("all-reduce tp P->R"));
  verify(r.tape(), "backward");
}

/// The residual stream sharded over the sequence: all-gather before the column parallel product, reduce-scatter after
/// the row parallel one; backward the same two, the other way round. Never an all-reduce.
TEST_F(Conversions, SequenceParallel) {
  input("x", Shard(1));
  input("targets", Shard(1), {2, 4}, DType::i32), input("weights", Shard(1), {2, 4});
  input("step.scalars", Replicate, {kernels::kStepScalars}, DType::f64), input("loss", Partial, {1}, DType::f64);
  const int scale_in = parameter("n1", {8}, Replicate, Partial), scale_out = parameter("n2", {8}, Replicate, Partial);
  const int up = parameter("up", {16, 8}, Shard(0), Shard(0)), down = parameter("down", {8, 16}, Shard(1), Shard(1));
  Recorder r = recorder();
  const Value x =
      r.convert(norm(r, r.persistent("x"), {}, r.parameter(scale_in), {}, true, 1e-5).y, Axis::tp, Replicate);
  const Value y = linear(r, linear(r, x, r.parameter(up), {}), r.parameter(down), {});
  const Value scattered = r.convert(y, Axis::tp, Shard(1));
  loss_of(r, norm(r, scattered, {}, r.parameter(scale_out), {}, true, 1e-5).y);
  EXPECT_THAT(forward(r), ElementsAre("all-gather tp S(1)->R", "reduce-scatter tp P->S(1)"));
  record_backward(r);
  EXPECT_THAT(backward(r), ElementsAre("all-gather tp S(1)->R", "reduce-scatter tp P->S(1)"));
  verify(r.tape(), "backward");
}

/// One row of the table: a tensor made by a product with a replicated weight, converted, then used so that its gradient
/// has the wanted placement.
class AdjointTable : public Conversions {
 protected:
  /// Records x -> product -> (placed `from`) -> convert to `to` -> scale -> loss on `loss_from`; returns backward's
  /// conversions.
  Names adjoint_of(Placement from, Placement to) {
    input("x", from);
    const Placement weight_gradient = from.is_shard() ? Partial : from;
    const int weight = parameter("w", {8, 8}, Replicate, from.is_partial() ? Replicate : weight_gradient);
    const Placement rows = to.is_shard() && to.dim < 2 ? to : Replicate;
    input("targets", rows, {2, 4}, DType::i32), input("weights", rows, {2, 4});
    input("step.scalars", Replicate, {kernels::kStepScalars}, DType::f64),
        input("loss", rows.is_shard() ? Partial : Replicate, {1}, DType::f64);
    Recorder r = recorder();
    const Value y = linear(r, r.persistent("x"), r.parameter(weight), {});
    EXPECT_EQ(placed(r, y), from);
    const Value z = r.convert(y, Axis::tp, to);
    EXPECT_EQ(forward(r).size(), 1u);
    loss_of(r, z);
    r.set_part(Part::forward);
    record_backward(r);
    return backward(r);
  }
};

TEST_F(AdjointTable, AllGatherWhenWhatFollowsIsTheSameIsOwnSlice) {
  EXPECT_THAT(adjoint_of(Shard(1), Replicate), ElementsAre("slice tp R->S(1)"));
}
TEST_F(AdjointTable, OwnSliceIsAllGather) {
  EXPECT_THAT(adjoint_of(Replicate, Shard(1)), ElementsAre("all-gather tp S(1)->R"));
}
TEST_F(AdjointTable, AllToAllIsAllToAll) {
  EXPECT_THAT(adjoint_of(Shard(0), Shard(1)), ElementsAre("all-to-all tp S(1)->S(0)"));
}

TEST_F(AdjointTable, AllReduceIsIdentity) {
  input("x", Shard(2));
  const int weight = parameter("w", {8, 8}, Shard(1), Shard(1));
  Recorder r = recorder();
  loss_of(r, r.convert(linear(r, r.persistent("x"), r.parameter(weight), {}), Axis::tp, Replicate));
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R"));
  record_backward(r);
  EXPECT_THAT(backward(r), IsEmpty());
  verify(r.tape(), "backward");
}

/// A weight whose shards feed the same rows: its gradient is written in the placement of the weight, without traffic.
TEST_F(AdjointTable, ShardedWeightsNeedNoReduction) {
  input("x", Replicate);
  const int weight = parameter("w", {8, 8}, Shard(0), Shard(0));
  Recorder r = recorder();
  loss_of(r, linear(r, r.persistent("x"), r.parameter(weight), {}));
  EXPECT_THAT(forward(r), ElementsAre("all-gather tp S(2)->R")) << "of three numbers a row, not of logits";
  EXPECT_EQ(r.shape({r.tape().nodes[r.tape().nodes.size() - 2].outputs[0]}), (Shape{2, 4, 6}));
  record_backward(r);
  EXPECT_THAT(backward(r), IsEmpty());
  verify(r.tape(), "backward");
}

/// A product is linear in the gradient that reaches it: a weight whose gradient is owed sums waits for the update.
TEST_F(AdjointTable, AWeightGradientMayOweItsSum) {
  input("x", Replicate);
  const int in = parameter("in", {8, 8}, Replicate, Replicate), q = parameter("q", {8, 8}, Shard(0), Shard(0));
  Recorder r = recorder();
  loss_of(r, linear(r, linear(r, r.persistent("x"), r.parameter(in), {}), r.parameter(q), {}));
  record_backward(r);
  EXPECT_THAT(backward(r), IsEmpty());
  EXPECT_EQ(placed(r, r.persistent("gradient.in")), Partial);
  EXPECT_EQ(placed(r, r.persistent("gradient.q")), Shard(0));
  verify(r.tape(), "backward");
}

/// A replicated sum of other readers joins the owed sum of a column parallel product: no weight is gathered.
TEST_F(AdjointTable, AReplicatedSumJoinsAColumnParallelOneWithoutGatheringWeights) {
  input("x", Replicate);
  const int scale_in = parameter("n", {8}, Replicate, Replicate), scale_out = parameter("m", {8}, Replicate, Replicate);
  const int q = parameter("q", {8, 8}, Shard(0), Shard(0)), o = parameter("o", {8, 8}, Shard(1), Shard(1));
  Recorder r = recorder();
  const Value x = norm(r, r.persistent("x"), {}, r.parameter(scale_in), {}, true, 1e-5).y;
  const Value branch = linear(r, linear(r, x, r.parameter(q), {}), r.parameter(o), {});
  loss_of(r, norm(r, x, branch, r.parameter(scale_out), {}, true, 1e-5).y);  // x is read twice
  record_backward(r);
  EXPECT_THAT(backward(r), ElementsAre("all-reduce tp P->R"));
  verify(r.tape(), "backward");
}

/// Two readers of one replicated tensor owe a sum each: the addends are added first and reduced once.
TEST_F(AdjointTable, ContributionsOfEqualPlacementAreReducedOnce) {
  input("x", Replicate);
  const int in = parameter("in", {8}, Replicate, Replicate);
  const int q = parameter("q", {8, 8}, Shard(0), Shard(0)), k = parameter("k", {8, 8}, Shard(0), Shard(0));
  const int out = parameter("out", {8, 8}, Shard(1), Shard(1));
  Recorder r = recorder();
  const Value x = norm(r, r.persistent("x"), {}, r.parameter(in), {}, true, 1e-5).y;
  const Value both = add(r, linear(r, x, r.parameter(q), {}), linear(r, x, r.parameter(k), {}));
  loss_of(r, linear(r, both, r.parameter(out), {}));
  EXPECT_THAT(forward(r), ElementsAre("all-reduce tp P->R"));
  record_backward(r);
  EXPECT_THAT(backward(r), ElementsAre("all-reduce tp P->R"));
  verify(r.tape(), "backward");
}

}  // namespace
}  // namespace capstan
