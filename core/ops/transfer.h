#pragma once
// What crosses from one stage of a pipeline to another: a send on the one side, a receive on the other, joined by a
// path of the plan's channels; and the sum over the first and the last stage of the gradient of a table that both hold.
// Recorded by the cut of the tape (core/passes/cut.h), never by a model.

#include "core/recorder.h"

namespace capstan {

/// One input, no output.
OpPtr make_send(int path, int to_stage);
/// No input, one output of this spec.
OpPtr make_receive(int path, int from_stage, const TensorSpec& spec);

/// x + the same of the other end of the pipeline, on both. Both ends record it. Into `target` where one is given.
Value sum_over_ends(Recorder& recorder, Value x);
void sum_over_ends(Recorder& recorder, Value x, Value target);

}  // namespace capstan
