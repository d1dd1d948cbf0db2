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
  for (const auto& [name, plan] : program.plans()) know(plan);
  plan_ = nullptr, selected_ = nullptr;
  follow(program.progress());
  program.observe(this);
}

/// Where a plan lies another may have been.
void FlightRecorder::know(const Plan& plan) {
  std::shared_ptr<PlanLabels>& labels = plans_[&plan];
  if (labels) left_.push_back(labels);
  labels = std::make_shared<PlanLabels>(labels_of(plan));
}

void FlightRecorder::select(const Plan& plan) {
  if (!plans_.contains(&plan)) know(plan);
  plan_ = &plan, selected_ = plans_[&plan].get();
}

void FlightRecorder::follow(std::shared_ptr<const DeviceProgress> progress) {
  const std::lock_guard lock(following_);
  if (progress_ == progress) return;
  if (progress_) moved_before_ += progress_->passed();
  progress_ = std::move(progress);
  queue_ = progress_ ? std::make_unique<FlightQueue>() : nullptr;  // numbers begin anew
}

void FlightRecorder::phase(Phase phase, int64_t step) {
  const auto now = Clock::now();
  limits_.passed(now_.phase, std::chrono::duration<double>(now - phase_began_).count());
  phase_began_ = now;
  now_.label = {};
  now_.phase = phase, now_.state = FlightState::between, now_.step = step, now_.microbatch = -1;
  for (auto& [plan, labels] : plans_) std::fill(labels->replays.begin(), labels->replays.end(), 0);
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

void FlightRecorder::replaying(const Plan& plan, const Stretch& nodes) {
  if (&plan != plan_) select(plan);
  now_.collectives += static_cast<uint64_t>(nodes.collectives - selected_->nodes[nodes.first].collective);
  before(plan, nodes.first);
  after(plan, nodes.first);
}

void FlightRecorder::queued(const Plan& plan, const Stretch& nodes, uint64_t number) {
  if (!queue_) return;
  if (&plan != plan_) select(plan);
  queue_->add(number, {&selected_->nodes[nodes.first].text, &selected_->nodes[nodes.last].text, now_.step,
                       now_.microbatch, now_.collectives, nodes.collectives > 0});
}

/// The phase, and with it the limit, stays that of the host: who waits for the device does so in it.
void FlightRecorder::add_device(FlightPosition& to) const {
  const std::lock_guard lock(following_);
  if (!progress_) return;
  const uint64_t passed = progress_->passed();
  QueuedStretch at;
  const uint64_t number = queue_->find_after(passed, at);
  if (number == 0) return;
  to.place = number == passed + 1 ? FlightPlace::device : FlightPlace::device_or_before;
  to.label = *at.first;
  if (at.last != at.first) to.last_op = at.last->op, to.last_detail = at.last->detail, to.last_layer = at.last->layer;
  to.step = at.step, to.microbatch = at.microbatch, to.collectives = at.collectives;
  to.state = at.waits ? FlightState::waiting : FlightState::working;
}

FlightPosition FlightRecorder::position() const {
  FlightPosition at = record().host_position();
  add_device(at);
  return at;
}

uint64_t FlightRecorder::moves() const {
  const std::lock_guard lock(following_);
  return record().moves() + moved_before_ + (progress_ ? progress_->passed() : 0);
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
  record().write_device(position());
}

}  // namespace capstan
