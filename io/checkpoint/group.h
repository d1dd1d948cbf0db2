#pragma once
// The ranks that save or load a checkpoint together, reached through the least that is needed: byte strings gathered to
// everybody. agree() is the one way in which a checkpoint talks: every rank does its part, then all learn how it went
// for each, and when it failed anywhere all throw the same Error. So no rank is left waiting for one that has thrown.
// Rule: every rank makes the same sequence of calls.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/communicator.h"

namespace capstan {

class CheckpointGroup {
 public:
  virtual ~CheckpointGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Everybody's byte string, in rank order, on every rank. Collective.
  virtual std::vector<std::string> gather(const std::string& mine) = 0;
};

/// The group of one: convert, evaluate, tests.
class LoneGroup : public CheckpointGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::vector<std::string> gather(const std::string& mine) override { return {mine}; }
};

/// The ranks of a communicator, which must outlive this.
class CommunicatorGroup : public CheckpointGroup {
 public:
  explicit CommunicatorGroup(Communicator& communicator) : communicator_(communicator) {}
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  std::vector<std::string> gather(const std::string& mine) override { return gather_strings(communicator_, mine); }

 private:
  Communicator& communicator_;
};

/// How one rank's part went: a payload, or the error it met. Encoded as a byte string for the gather.
class Outcome {
 public:
  /// Runs the work and keeps what it returns or throws.
  static Outcome of(const std::function<std::string()>& work);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// Collective: everybody's payloads, or on every rank the Error of the lowest rank that failed.
std::vector<std::string> agree(CheckpointGroup& group, const Outcome& mine);

inline std::vector<std::string> agree(CheckpointGroup& group, const std::function<std::string()>& work) {
  return agree(group, Outcome::of(work));
}

/// Numbers and strings in a byte string, for ranks of one program: fixed-width native integers, length before text.
class Packer {
 public:
  Packer& put(uint64_t value);
  Packer& put(std::string_view text);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : rest_(bytes) {}
  uint64_t count();
  std::string text();

 private:
  std::string_view rest_;
};

}  // namespace capstan
