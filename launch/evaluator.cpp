#include "launch/evaluator.h"

#include <algorithm>
#include <cmath>

namespace capstan {

double Evaluation::bits_per_byte() const { return nats / std::log(2.0) / bytes; }

Evaluation evaluate(TrainingProgram& training, CorpusStream& stream, int64_t samples,
                    const std::function<void(int64_t)>& progress) {
  Program& program = training.program();
  const int64_t micro = training.spec().microbatch, ranks = program.mesh().data_ranks(),
                rank = program.mesh().data_rank();
  samples = std::min<int64_t>(samples, static_cast<int64_t>(stream.samples_per_epoch()));
  DataFeed feed(stream, micro, program.mesh());
  SampleTally tally;
  double nats = 0.0;
  for (int64_t round = 0; round * micro * ranks < samples; ++round) {
    const int64_t first = (round * ranks + rank) * micro;
    const int64_t count = std::clamp<int64_t>(samples - first, 0, micro);
    tally += feed.read_range(static_cast<uint64_t>(first), count);
    feed.place(program, 0, count, micro);
    training.evaluate_microbatch();
    nats += program.read<double>("evaluate.report")[kEvaluationLoss];
    if (progress) progress(std::min((round + 1) * micro * ranks, samples));
  }
  double* report = program.write<double>("evaluate.report");
  const bool counts = training.has_loss();  // of the stages of a pipeline, all of which read the same samples
  const bool tells = counts && program.mesh().coordinate(Axis::cp) == 0;  // of ranks that read the same samples
  report[kEvaluationLoss] = counts ? nats : 0.0, report[kEvaluationWeights] = tells ? tally.weight : 0.0;
  report[kEvaluationBytes] = tells ? static_cast<double>(tally.text_bytes) : 0.0;
  if (program.has("evaluate", Part::update)) program.run("evaluate", Part::update);
  const double* sums = program.read<double>("evaluate.report");
  return {sums[kEvaluationLoss], sums[kEvaluationWeights], sums[kEvaluationBytes], samples};
}

}  // namespace capstan
