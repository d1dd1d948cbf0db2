// A training step: queued, waited for, counted. What is queued ahead and why is told in trainer.h.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/failpoint.h"
#include "core/learning_rate.h"
#include "launch/gradient_check.h"
#include "launch/joint_error.h"
#include "launch/trainer.h"

namespace capstan {
namespace {

double seconds_from(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

/// Nothing is queued behind a step after which the state as it then stands is needed.
bool Trainer::may_queue() const {
  if (queued_.empty()) return true;
  const int64_t done = state_.step + static_cast<int64_t>(queued_.size());
  return queued_.size() <= steps_ahead_ && !stops_ && done < config_.train.steps &&
         !due(config_.checkpoint.every, done) && !due(config_.train.evaluate_every, done);
}

void Trainer::queue_step() {
  QueuedStep step;
  step.began = Clock::now();
  step.index = state_.step + static_cast<int64_t>(queued_.size());
  const uint64_t batch = static_cast<uint64_t>(config_.train.global_batch);
  step.cursor = state_.samples + static_cast<uint64_t>(queued_.size()) * batch;
  enter(Phase::data, step.index);
  const SampleTally tally = feed_->read(step.cursor, batch);
  step.data_seconds = seconds_from(step.began);
  blank_ += static_cast<int64_t>(tally.blank);
  enter(Phase::step, step.index);
  StepSetting& setting = step.setting;
  setting.weights = tally.weight;
  setting.learning_rate =
      learning_rate_at(config_.schedule, config_.optimizer.learning_rate, step.index, config_.train.steps);
  setting.clip = config_.optimizer.clip;
  setting.random_key =
      static_cast<uint64_t>(config_.train.seed) * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(step.index);
  setting.stop = stop_.requested();
  setting.saving = save_.writing();
  step.poisoned = failpoint("train.gradients");
  run_microbatches(step, !step.poisoned);
  training_->end_step();
  queued_.push_back(step);
}

/// The samples of the step are those that the feed read last.
void Trainer::run_microbatches(const QueuedStep& step, bool reduce) {
  Program& program = training_->program();
  const int64_t micro = config_.train.microbatch;
  training_->begin_step(step.setting);
  training_->run_microbatches(
      [&](int64_t m) {
        feed_->place(program, m * micro, micro, micro, m);
        if (failpoint("train.microbatch")) program.write<float>("input.loss_weights", m)[0] = NAN;
      },
      reduce);
  if (step.poisoned)
    program.put(program.address("gradients"), bytes_of(training_->master_dtype()),
                [](void* to, size_t, size_t bytes) { std::memset(to, 0xff, bytes); });
}

Trainer::Taken Trainer::wait_for_outcome() {
  if (phase_ != Phase::step) enter(Phase::step);
  const StepOutcome outcome = training_->take_outcome();
  return {outcome, Clock::now()};
}

Trainer::Taken Trainer::take_outcome() {
  if (early_.empty()) return wait_for_outcome();
  const Taken first = early_.front();
  early_.pop_front();
  return first;
}

/// Whose own gradients are not finite: the samples of the step once more. A step that was queued behind it has run by
/// now, so the weights may be one step newer than those which made the gradients; what is wrong with the data, or with
/// weights that every later step has too, shows all the same.
std::vector<int> Trainer::find_bad_gradients(const QueuedStep& step) {
  while (training_->outcomes() > 0) early_.push_back(wait_for_outcome());
  if (!queued_.empty()) feed_->read_share(step.cursor);
  enter(Phase::step, step.index);
  run_microbatches(step, false);
  return ranks_with_bad_gradients(*training_, world_);
}

Trainer::StepResult Trainer::take_step() {
  const Taken taken = take_outcome();
  const QueuedStep step = queued_.front();
  queued_.pop_front();
  StepResult result;
  result.outcome = taken.outcome;
  const StepOutcome& outcome = result.outcome;
  result.learning_rate = step.setting.learning_rate;
  result.data_seconds = step.data_seconds;
  result.loss = outcome.weights > 0.0 ? outcome.loss_sum / outcome.weights : 0.0;
  result.seconds = std::chrono::duration<double>(taken.at - std::max(step.began, last_outcome_)).count();
  last_outcome_ = taken.at;
  result.stop = outcome.stop;
  // Nothing was queued when the save began, so this vote came after it.
  result.written = save_.under_way() && !outcome.saving;
  if (training_->knows_own_gradients())
    noise_scale_.add(outcome.own_square, std::pow(outcome.gradient_norm, 2), outcome.weights / config_.layout.dp,
                     outcome.weights);
  if (!outcome.skipped || outcome.overflowed || !outcome.bad_ranks.empty()) return result;
  const Clock::time_point start = Clock::now();
  result.bad_gradients = find_bad_gradients(step);
  result.seconds += seconds_from(start);
  return result;
}

void Trainer::count_step(const StepResult& result) {
  ++state_.step;
  state_.samples += static_cast<uint64_t>(config_.train.global_batch);
  state_.tokens += static_cast<uint64_t>(config_.train.global_batch * config_.model.context);
  saved_ = false;
  mean_seconds_ = mean_seconds_ == 0.0 ? result.seconds : 0.9 * mean_seconds_ + 0.1 * result.seconds;
  if (!result.outcome.skipped) {
    ++state_.updates;
    state_.bad_in_a_row = 0;
    return;
  }
  if (result.outcome.overflowed) {
    console_.say(
        fmt::format("scale    step {}: gradients overflow fp16 at loss scale {}; the step was skipped, the "
                    "scale is lowered to {}",
                    state_.step, result.outcome.loss_scale, result.outcome.next_loss_scale));
    return;
  }
  ++state_.bad_steps, ++state_.bad_in_a_row;
  console_.say(fmt::format("warning  step {}: {} is not finite; the step was skipped ({} in a row, {} in all)",
                           state_.step, blame(result), state_.bad_in_a_row, state_.bad_steps));
}

/// All ranks come to it at the same step, so what was being saved is finished first.
void Trainer::end_if_hopeless(const StepResult& result) {
  if (!result.outcome.skipped || result.outcome.overflowed || state_.bad_in_a_row < config_.train.maximum_bad_steps)
    return;
  finish_save();
  throw_jointly(
      world_,
      Error::make(ExitCode::numerical,
                  "{} steps in a row were not finite, the last at step {} ({}); lower optimizer.learning_rate, or look "
                  "at the data around sample {}",
                  state_.bad_in_a_row, state_.step, blame(result), state_.samples));
}

}  // namespace capstan
