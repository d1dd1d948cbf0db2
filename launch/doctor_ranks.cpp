#include "launch/doctor_ranks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "io/file_system.h"
#include "launch/console.h"

namespace capstan {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string host_name() {
  std::array<char, 256> text{};
  gethostname(text.data(), text.size() - 1);
  return text.data();
}

/// Bytes that only this rank writes, so that a file in the wrong place is noticed (splitmix64).
std::string pattern(int rank, size_t bytes) {
  std::string data(bytes, '\0');
  uint64_t state = 0x9e3779b97f4a7c15ULL * static_cast<uint64_t>(rank + 1);
  for (size_t at = 0; at < bytes; at += sizeof state) {
    state += 0x9e3779b97f4a7c15ULL;
    uint64_t z = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    std::memcpy(data.data() + at, &z, std::min(sizeof z, bytes - at));
  }
  return data;
}

std::filesystem::path file_of(const std::filesystem::path& folder, int rank) {
  return folder / fmt::format("rank-{}", rank);
}

void write_pattern(const std::filesystem::path& folder, int rank, size_t bytes) {
  DurableFile file(file_of(folder, rank));
  file.write(pattern(rank, bytes));
  file.sync_and_close();
}

/// Empty when the file of `rank` holds its pattern; what is wrong otherwise.
std::string compare_pattern(const std::filesystem::path& folder, int rank, size_t bytes) {
  const std::filesystem::path path = file_of(folder, rank);
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid())
    return fmt::format("{} is not seen here: {} (the directory must be shared by all machines)", path.string(),
                       std::strerror(errno));
  ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);  // from the disk, not from memory, where the system obeys
  const std::string wanted = pattern(rank, bytes);
  const std::string got = read_whole_file(path, bytes);
  if (got.size() != wanted.size())
    return fmt::format("{} has {} bytes, wanted {}", path.string(), got.size(), wanted.size());
  const auto differs = std::mismatch(wanted.begin(), wanted.end(), got.begin());
  if (differs.first == wanted.end()) return "";
  return fmt::format("{} differs from what was written at byte {}", path.string(), differs.first - wanted.begin());
}

/// The step's outcome on every rank: the complaint of the lowest rank that has one; empty when all went well.
template <typename Step>
std::string agreed(Communicator& world, Step step) {
  std::string complaint;
  try {
    complaint = step();
  } catch (const Error& e) {
    complaint = e.what();
  }
  const std::vector<std::string> all = gather_strings(world, complaint);
  for (size_t rank = 0; rank < all.size(); ++rank)
    if (!all[rank].empty()) return world.size() > 1 ? fmt::format("rank {}: {}", rank, all[rank]) : all[rank];
  return "";
}

/// The sum over ranks of a vector whose every element tells rank and place; wrong elements are counted.
double summed_wrong(Communicator& world, std::vector<float>& data) {
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(world.rank() + 1) * static_cast<float>(i % 7);
  world.all_reduce(data.data(), data.size(), DType::f32, ReduceOp::sum, Reduction::fast);
  const double ranks = world.size(), sum = ranks * (ranks + 1) / 2;
  double wrong = 0;
  for (size_t i = 0; i < data.size(); ++i)
    if (std::abs(data[i] - sum * static_cast<double>(i % 7)) > 1e-6 * sum) wrong += 1;
  world.all_reduce(&wrong, 1, DType::f64, ReduceOp::sum, Reduction::fast);
  return wrong;
}

}  // namespace

int ranks_on_this_host(Communicator& world) {
  const std::vector<std::string> hosts = gather_strings(world, host_name());
  return static_cast<int>(std::count(hosts.begin(), hosts.end(), host_name()));
}

std::vector<Finding> communication_findings(Communicator& world, const std::string& library, bool launched) {
  const std::vector<std::string> names = gather_strings(world, host_name());
  const std::set<std::string> hosts(names.begin(), names.end());
  std::vector<Finding> out;
  if (library.empty())
    out.push_back(broken("MPI", "no library", "install libopenmpi-dev and build again", ExitCode::internal));
  else
    out.push_back(good("MPI", fmt::format("{}; {} rank{} on {} machine{}{}", library, world.size(),
                                          world.size() == 1 ? "" : "s", hosts.size(), hosts.size() == 1 ? "" : "s",
                                          launched ? "" : " (started alone; mpirun -n 2 capstan doctor tries more)")));
  std::vector<float> data(size_t{1} << 18);
  double wrong = summed_wrong(world, data);
  const Clock::time_point begin = Clock::now();
  constexpr int kTimes = 5;
  for (int i = 0; i < kTimes; ++i)
    world.all_reduce(data.data(), data.size(), DType::f32, ReduceOp::max, Reduction::fast);
  const double milliseconds = 1000 * seconds_since(begin) / kTimes;
  wrong += summed_wrong(world, data);
  const std::string found =
      world.size() == 1 ? "one rank: nobody to talk to"
                        : fmt::format("through {}, all-reduce of 1 MiB in {:.2f} ms", world.transport(), milliseconds);
  if (wrong > 0)
    out.push_back(broken("ranks", fmt::format("{}; {:.0f} sums are wrong", found, wrong),
                         "memory or network gives wrong numbers: do not train here", ExitCode::peer_lost));
  else if (world.size() > 1 && milliseconds > 100)
    out.push_back(
        doubtful("ranks", found, "very slow: more ranks than cores? mpirun --oversubscribe makes waiting ranks yield"));
  else
    out.push_back(good("ranks", found));
  return out;
}

Finding write_read_back(Communicator& world, const std::filesystem::path& directory, size_t bytes) {
  long id = getpid();
  world.broadcast(&id, sizeof id, 0);
  const std::filesystem::path folder = directory / fmt::format(".capstan-doctor-{}", id);
  const int neighbour = (world.rank() + 1) % world.size();
  std::error_code ignored;
  std::string complaint = agreed(world, [&]() -> std::string {
    if (!std::filesystem::is_directory(directory, ignored)) return directory.string() + " is not a directory";
    return "";
  });
  if (complaint.empty())
    complaint = agreed(world, [&]() -> std::string {
      if (world.rank() == 0) create_directory_durably(folder);
      return "";
    });
  const Clock::time_point begin = Clock::now();
  if (complaint.empty())
    complaint = agreed(world, [&]() -> std::string {
      write_pattern(folder, world.rank(), bytes);
      return "";
    });
  const double written = seconds_since(begin);
  if (complaint.empty()) complaint = agreed(world, [&] { return compare_pattern(folder, neighbour, bytes); });
  const double all = static_cast<double>(bytes) * world.size();
  world.barrier();
  if (world.rank() == 0) std::filesystem::remove_all(folder, ignored);
  if (!complaint.empty())
    return broken("write, read back", complaint, "choose another --dir, or make this one writable and shared",
                  ExitCode::io_error);
  return good("write, read back", fmt::format("{} by {} rank{} at {}/s, every byte the same", bytes_text(all),
                                              world.size(), world.size() == 1 ? "" : "s", bytes_text(all / written)));
}

}  // namespace capstan
