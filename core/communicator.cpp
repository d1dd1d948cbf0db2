#include "core/communicator.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace capstan {
namespace {

/// A group of one: every reduction is the identity, every exchange a copy, and there is nobody to talk to.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(void*, size_t, DType, ReduceOp, Reduction) override { ++count_.calls; }
  void reduce_scatter(const void* in, void* out, size_t count, DType dtype, Reduction) override {
    copy(in, out, count * bytes_of(dtype));
  }
  void all_gather(const void* in, void* out, size_t count, DType dtype) override {
    copy(in, out, count * bytes_of(dtype));
  }
  void all_to_all(const void* in, void* out, size_t count, DType dtype) override {
    copy(in, out, count * bytes_of(dtype));
  }
  void shift(const void* in, void* out, size_t bytes, int) override { copy(in, out, bytes); }
  void broadcast(void*, size_t, int root) override {
    CAPSTAN_CHECK(root == 0, "broadcast from rank {} in a group of one", root);
    ++count_.calls;
  }
  void barrier() override { ++count_.calls; }
  void send(const void*, size_t, int to) override {
    CAPSTAN_CHECK(false, "send to rank {} in a group of one: there is no other rank", to);
  }
  void receive(void*, size_t, int from) override {
    CAPSTAN_CHECK(false, "receive from rank {} in a group of one: there is no other rank", from);
  }

  std::unique_ptr<Channels> open_channels(const std::vector<ChannelSpec>& paths, int) override {
    CAPSTAN_CHECK(paths.empty(), "{} paths in a group of one", paths.size());
    return nullptr;
  }
  std::unique_ptr<Communicator> split(int, int) override {
    ++count_.calls;
    return self_communicator();
  }
  void abort(const std::string&, int) override {}  // no other member, and only launch/ ends the process
  CommunicationCount count() const override { return count_; }
  void count_again(const CommunicationCount& count) override {
    count_.calls += count.calls, count_.bytes += count.bytes;
  }
  std::string transport() const override { return "self"; }

 private:
  void copy(const void* in, void* out, size_t bytes) {
    ++count_.calls;
    if (in != out && bytes > 0) std::memcpy(out, in, bytes);
  }

  CommunicationCount count_;
};

}  // namespace

std::vector<std::string> gather_strings(Communicator& group, const std::string& mine) {
  const size_t ranks = static_cast<size_t>(group.size());
  const uint64_t length = mine.size();
  std::vector<uint64_t> lengths(ranks);
  group.all_gather(&length, lengths.data(), 1, DType::i64);

  const size_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string padded = mine;
  padded.resize(longest);
  std::string all(longest * ranks, '\0');
  group.all_gather(padded.data(), all.data(), longest, DType::u8);

  std::vector<std::string> result(ranks);
  for (size_t r = 0; r < ranks; ++r) result[r] = all.substr(r * longest, lengths[r]);
  return result;
}

std::unique_ptr<Communicator> self_communicator() { return std::make_unique<SelfCommunicator>(); }

}  // namespace capstan
