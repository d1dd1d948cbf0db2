#include "io/checkpoint/group.h"

#include <cstring>

#include "core/error.h"

namespace capstan {
namespace {
constexpr char kGood = 'g', kFailed = 'f';

std::string failure(ExitCode code, std::string_view message) {
  return kFailed + Packer().put(static_cast<uint64_t>(code)).put(message).take();
}
}  // namespace

Outcome Outcome::of(const std::function<std::string()>& work) {
  Outcome outcome;
  try {
    outcome.bytes_ = kGood + work();
  } catch (const Error& error) {
    outcome.bytes_ = failure(error.code(), error.what());
  } catch (const std::exception& error) {
    outcome.bytes_ = failure(ExitCode::internal, error.what());
  }
  return outcome;
}

std::vector<std::string> agree(CheckpointGroup& group, const Outcome& mine) {
  std::vector<std::string> all = group.gather(mine.bytes());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    CAPSTAN_CHECK(!all[rank].empty(), "rank {} said nothing while a checkpoint was agreed on", rank);
    if (all[rank][0] != kFailed) continue;
    Unpacker unpack(std::string_view(all[rank]).substr(1));
    const auto code = static_cast<ExitCode>(unpack.count());
    const std::string message = unpack.text();
    throw Error(code, group.size() == 1 ? message : fmt::format("rank {}: {}", rank, message));
  }
  for (std::string& payload : all) payload.erase(0, 1);
  return all;
}

Packer& Packer::put(uint64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  return *this;
}

Packer& Packer::put(std::string_view text) {
  put(static_cast<uint64_t>(text.size()));
  bytes_.append(text);
  return *this;
}

uint64_t Unpacker::count() {
  uint64_t value = 0;
  CAPSTAN_CHECK(rest_.size() >= sizeof value, "a rank's message ends too early");
  std::memcpy(&value, rest_.data(), sizeof value);
  rest_.remove_prefix(sizeof value);
  return value;
}

std::string Unpacker::text() {
  const uint64_t bytes = count();
  CAPSTAN_CHECK(bytes <= rest_.size(), "a rank's message ends too early");
  std::string out(rest_.substr(0, bytes));
  rest_.remove_prefix(bytes);
  return out;
}

}  // namespace capstan
