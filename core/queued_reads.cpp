#include "core/queued_reads.h"

#include <cstring>
#include <exception>

#include "core/error.h"

namespace capstan {

QueuedReads::QueuedReads(const Program& program, const std::vector<std::string>& names)
    : program_(program), device_(program.runtime()) {
  size_t bytes = 0;
  for (const std::string& name : names) {
    const int index = program.persistent().find(name);
    CAPSTAN_CHECK(index >= 0, "there is no persistent tensor {}", name);
    tensors_.push_back({index, bytes, program.persistent().at(index).bytes});
    bytes += aligned(tensors_.back().bytes);
  }
  if (device_ == nullptr) memory_.resize(kMost * bytes);
  for (size_t i = 0; i < kMost; ++i) {
    slots_[i].memory =
        device_ != nullptr ? static_cast<char*>(device_->allocate_pinned(bytes)) : memory_.data() + i * bytes;
    if (device_ != nullptr) slots_[i].copied = device_->make_event();
  }
}

/// Nothing may be copied into memory that is given back.
QueuedReads::~QueuedReads() {
  if (device_ == nullptr) return;
  for (const Slot& slot : slots_) {
    try {
      device_->finish(slot.copied);
    } catch (const std::exception&) {  // the device is lost; what it still held is too
    }
    device_->release_pinned(slot.memory);
  }
}

void QueuedReads::queue() {
  CAPSTAN_CHECK(outstanding() < kMost, "{} reads are queued and none of them was taken", outstanding());
  const Slot& to = slot(queued_);
  for (const Tensor& tensor : tensors_) {
    const void* from = program_.address(tensor.persistent);
    if (device_ != nullptr)
      device_->copy_out(to.memory + tensor.offset, from, tensor.bytes, device_->main_stream());
    else
      std::memcpy(to.memory + tensor.offset, from, tensor.bytes);
  }
  if (device_ != nullptr) device_->record(to.copied, device_->main_stream());
  ++queued_;
}

void QueuedReads::take() {
  CAPSTAN_CHECK(outstanding() > 0, "nothing is queued");
  if (device_ != nullptr) device_->finish(slot(taken_).copied);
  ++taken_;
}

}  // namespace capstan
