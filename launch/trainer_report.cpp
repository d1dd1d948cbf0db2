// What a run says: at its start, at each step, at its end.

#include <cmath>

#include "io/file_system.h"
#include "launch/data_report.h"
#include "launch/rank_map.h"
#include "launch/trainer.h"
#include "parallel/heartbeat_addresses.h"

namespace capstan {

void Trainer::announce() const {
  for (const std::string& line : rank_map_lines(mesh_, gather_strings(world_, host_identity())))
    console_.say("hosts    " + line);
  const Program& program = training_->program();
  console_.say(fmt::format("model    {} parameters, {} layers, width {}, context {}, vocabulary {}",
                           program.parameters().elements(), config_.model.layers, config_.model.width,
                           config_.model.context, config_.model.vocabulary));
  console_.say(fmt::format("layout   {}; {} thread{} a rank; {}; {}", mesh_.describe(), threads_,
                           threads_ == 1 ? "" : "s", device_.describe(), groups_.transport()));
  if (!device_.note().empty()) console_.say("note     " + device_.note());
  console_.say(fmt::format("batch    {} sequences = {} microbatch{} of {} on each of {} rank{}",
                           config_.train.global_batch, config_.accumulation(), config_.accumulation() == 1 ? "" : "es",
                           config_.train.microbatch, config_.layout.dp, config_.layout.dp == 1 ? "" : "s"));
  console_.say(fmt::format(
      "memory   {} persistent + {} transient a rank, planned before step 0; outside it {} of samples, {} of corpus "
      "chunks, {} for the copy of a checkpoint that is written, and {} shared with the ranks of this host",
      bytes_text(static_cast<double>(program.persistent_bytes())),
      bytes_text(static_cast<double>(program.transient_bytes())), bytes_text(static_cast<double>(feed_->bytes())),
      bytes_text(static_cast<double>(train_stream_->memory_bytes() + validation_stream_->memory_bytes())),
      bytes_text(static_cast<double>(BackgroundSave::copy_bytes(*training_))),
      bytes_text(static_cast<double>(groups_.shared_bytes()))));
  if (device_.runtime() != nullptr) {
    const kernels::DeviceFacts facts = device_.runtime()->facts();
    const double taken = static_cast<double>(facts.memory_bytes - facts.free_bytes);
    const double nccl = static_cast<double>(groups_.nccl_bytes());
    console_.say(fmt::format(
        "memory   of the GPU's {} the driver, its libraries and other programs hold {}, NCCL {}; {} are free",
        bytes_text(static_cast<double>(facts.memory_bytes)), bytes_text(taken - nccl), bytes_text(nccl),
        bytes_text(static_cast<double>(facts.free_bytes))));
  }
  console_.say(
      fmt::format("corpus   {} training tokens, {} samples an epoch; the run reads {:.2f} epochs",
                  train_stream_->tokens(), train_stream_->samples_per_epoch(),
                  static_cast<double>(planned_samples()) / static_cast<double>(train_stream_->samples_per_epoch())));
}

/// `planned`: where the run will stand; 0 at its end.
void Trainer::announce_data(uint64_t planned) const {
  for (const std::string& line : blend_lines(*train_stream_, state_.samples, planned)) console_.say("data     " + line);
  if (planned == 0 && state_.blank_tokens > 0)
    console_.say(fmt::format("data     {} of {} tokens were blank: held out for validation elsewhere, or left empty",
                             state_.blank_tokens, state_.tokens));
}

void Trainer::write_data() const {
  if (world_.rank() != 0) return;
  const std::string text = data_json(*train_stream_, static_cast<uint64_t>(state_.step), state_.samples,
                                     planned_samples(), state_.blank_tokens);
  const std::filesystem::path path = directory_.data();
  constexpr uint64_t kMost = uint64_t{64} << 20;
  // A run that is finished and started again changes nothing.
  if (std::filesystem::exists(path) && read_whole_file(path, kMost) == text) return;
  write_file_atomically(path, text);
}

std::string Trainer::blame(const StepResult& result) {
  std::string who;
  for (const int rank : result.outcome.bad_ranks)
    who += fmt::format("{}{}", who.empty() ? "the loss on rank " : ", ", rank);
  if (!who.empty()) return who;
  for (const int rank : result.bad_gradients)
    who += fmt::format("{}{}", who.empty() ? "the gradient of rank " : ", ", rank);
  return who.empty() ? "the gradient norm (every rank's loss and gradient are finite, their sum is not)" : who;
}

std::string Trainer::progress_text(const StepResult& result) const {
  const double rate = static_cast<double>(config_.train.global_batch * config_.model.context) / mean_seconds_;
  std::string text =
      fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s  MFU {:.0f}%  ETA {}", state_.step, config_.train.steps,
                  result.loss, rate, 100.0 * step_flops_ / mean_seconds_ / product_rate_,
                  duration_text(mean_seconds_ * static_cast<double>(config_.train.steps - state_.step)));
  if (last_validation_ > 0.0) text += fmt::format("  validation {:.4f}", last_validation_);
  return text;
}

void Trainer::log_step(const StepResult& result) {
  const double tokens = static_cast<double>(config_.train.global_batch * config_.model.context);
  MetricsLine line{{"step", state_.step},
                   {"tokens", state_.tokens},
                   {"loss", result.loss},
                   {"learning_rate", result.learning_rate},
                   {"grad_norm", result.outcome.gradient_norm},
                   {"step_seconds", result.seconds},
                   {"tokens_per_second", tokens / result.seconds},
                   {"mfu", step_flops_ / result.seconds / product_rate_},
                   {"hfu", step_flops_done_ / result.seconds / product_rate_},
                   {"data_wait_seconds", result.data_seconds}};
  if (training_->scales_loss()) line.push_back({"loss_scale", result.outcome.loss_scale});
  if (result.outcome.skipped) line.push_back({"skipped", int64_t{1}});
  if (std::isfinite(noise_scale_.tokens())) line.push_back({"noise_scale", noise_scale_.tokens()});
  meter_.add_to(line);  // on all ranks: the others tell rank 0
  const bool last = state_.step == config_.train.steps;
  if (due(config_.train.evaluate_every) || last) evaluate(line);
  if (log_) log_->append(line);
  console_.progress(progress_text(result), last || due(config_.train.evaluate_every));
}

}  // namespace capstan
