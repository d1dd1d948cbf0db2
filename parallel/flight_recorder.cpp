#include "parallel/flight_recorder.h"

#include <algorithm>
#include <tuple>

namespace capstan {
namespace {

bool has_microbatches(Part part) { return part == Part::forward || part == Part::backward || part == Part::weights; }

FlightLabel label_of(const Plan& plan, const Node& node) {
  FlightLabel label;
  copy_text(plan.name, label.plan.data(), label.plan.size());
  copy_text(name_of(node.part), label.part.data(), label.part.size());
  copy_text(std::string(node.op->name()), label.op.data(), label.op.size());
  std::string detail = node.op->is_collective() ? node.op->attributes() : "";
  if (!node.op->is_collective() && !node.outputs.empty() && node.outputs[0] != kNoTensor)
    detail = plan.tape.at(node.outputs[0]).name;
  copy_text(detail, label.detail.data(), label.detail.size());
  label.layer = node.region, label.chunk = node.chunk;
  return label;
}

}  // namespace

FlightRecorder::FlightRecorder(int rank, int ranks, double ceiling_seconds)
    : memory_(std::make_shared<FlightRecord>()),
      current_(memory_.get()),
      limits_(ceiling_seconds),
      phase_began_(Clock::now()) {
  memory_->begin(rank, ranks);
  memory_->write(now_);
}

std::string FlightRecorder::attach(const std::filesystem::path& file) {
  std::string why;
  mapped_ = map_flight_record(file, why);
  if (!mapped_) return why;
  mapped_->begin(memory_->rank, memory_->ranks);
  mapped_->write(now_);
  current_.store(mapped_.get(), std::memory_order_release);
  return "";
}

FlightRecorder::PlanLabels FlightRecorder::labels_of(const Plan& plan) const {
  PlanLabels labels;
  std::map<std::tuple<Part, int, int>, int> sequences;
  for (const Node& node : plan.tape.nodes) {
    Label label{label_of(plan, node)};
    label.collective = node.op->is_collective();
    if (has_microbatches(node.part) && !node.lane) {  // those of a lane are met when they are waited for, or never
      const auto [found, added] =
          sequences.emplace(std::make_tuple(node.part, node.level, node.chunk), static_cast<int>(sequences.size()));
      label.sequence = found->second, label.first = added;
    }
    labels.nodes.push_back(label);
  }
  labels.replays.assign(sequences.size(), 0);
  return labels;
}

void FlightRecorder::observe(Program& program) {
  for (const auto& [name, plan] : program.plans()) plans_[&plan] = labels_of(plan);
  program.observe(this);
}

void FlightRecorder::select(const Plan& plan) {
  auto found = plans_.find(&plan);
  if (found == plans_.end()) found = plans_.emplace(&plan, labels_of(plan)).first;
  plan_ = &plan, selected_ = &found->second;
}

void FlightRecorder::phase(Phase phase, int64_t step) {
  const auto now = Clock::now();
  limits_.passed(now_.phase, std::chrono::duration<double>(now - phase_began_).count());
  phase_began_ = now;
  now_.label = {};
  now_.phase = phase, now_.state = FlightState::between, now_.step = step, now_.microbatch = -1;
  for (auto& [plan, labels] : plans_) std::fill(labels.replays.begin(), labels.replays.end(), 0);
  record().write(now_);
  if (phase == Phase::end) record().ended = unix_milliseconds();
}

void FlightRecorder::before(const Plan& plan, size_t node) {
  if (&plan != plan_) select(plan);
  const Label& label = selected_->nodes[node];
  now_.label = label.text;
  now_.microbatch = -1;
  if (label.sequence >= 0) {
    int64_t& replays = selected_->replays[static_cast<size_t>(label.sequence)];
    if (label.first) ++replays;
    now_.microbatch = replays - 1;
  }
  now_.state = label.collective ? FlightState::waiting : FlightState::working;
  now_.collectives += label.collective;
  record().write(now_);
}

/// In a part of a microbatch, that of the op that waits.
void FlightRecorder::waiting(const Plan& plan, size_t node) {
  const int64_t microbatch = now_.microbatch;
  before(plan, node);
  if (!has_microbatches(plan.tape.nodes[node].part)) return;
  now_.microbatch = microbatch;
  record().write(now_);
}

void FlightRecorder::after(const Plan&, size_t node) {
  if (!selected_->nodes[node].collective) return;  // the next op says that this one has ended
  now_.state = FlightState::between;
  record().write(now_);
}

void FlightRecorder::enter_collective(const char* name) {
  now_.label = {};
  copy_text(name, now_.label.op.data(), now_.label.op.size());
  copy_text("over all ranks", now_.label.detail.data(), now_.label.detail.size());
  now_.microbatch = -1;
  now_.state = FlightState::waiting;
  ++now_.collectives;
  record().write(now_);
}

void FlightRecorder::leave_collective() {
  now_.label = {};
  now_.state = FlightState::between;
  record().write(now_);
}

void FlightRecorder::looked(bool moved) {
  const int64_t now = unix_milliseconds();
  record().alive.store(now, std::memory_order_relaxed);
  if (moved) record().moved.store(now, std::memory_order_relaxed);
}

}  // namespace capstan
