#pragma once
// What every communicator must do, written once and run over each transport. A check is called on all ranks of a group
// and throws when something is wrong; expectations are computed by plain loops here, not by the library.

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/communicator.h"
#include "core/error.h"
#include "kernels/types.h"

namespace capstan::suite {

inline void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// ---- numbers: element i of what rank r contributes to test `stream`

/// 32 well mixed bits of (stream, rank, i); cheap, since expectations need every rank's elements.
inline uint32_t bits_of(int rank, size_t i, uint64_t stream) {
  uint64_t x = (i * 1024 + static_cast<uint64_t>(rank)) * 0x9E3779B97F4A7C15ull + stream;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9ull;
  return static_cast<uint32_t>(x >> 32);
}

inline double number(int rank, size_t i, uint64_t stream) {
  return static_cast<double>(bits_of(rank, i, stream)) * 0x1p-31 - 1.0;
}

template <typename T>
constexpr bool kHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

template <typename T>
T element(int rank, size_t i, uint64_t stream) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(bits_of(rank, i, stream) % 2000) - 1000;
  else if constexpr (kHalf<T>)
    return T(static_cast<float>(number(rank, i, stream)));
  else
    return static_cast<T>(number(rank, i, stream));
}

template <typename T>
std::vector<T> elements(int rank, size_t count, uint64_t stream) {
  std::vector<T> v(count);
  for (size_t i = 0; i < count; ++i) v[i] = element<T>(rank, i, stream);
  return v;
}

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, BFloat16>) return DType::bf16;
  if constexpr (std::is_same_v<T, Float16>) return DType::f16;
  if constexpr (std::is_same_v<T, int64_t>) return DType::i64;
  return DType::i32;
}

// ---- the tree, element by element: ((0+1)+(2+3))+..., missing leaves left out

template <typename T>
using Partial = std::conditional_t<kHalf<T>, float, T>;

template <typename T>
Partial<T> tree(int low, int width, int ranks, size_t i, uint64_t stream, ReduceOp op) {
  if (width == 1) return static_cast<Partial<T>>(element<T>(low, i, stream));
  const Partial<T> left = tree<T>(low, width / 2, ranks, i, stream, op);
  if (low + width / 2 >= ranks) return left;
  const Partial<T> right = tree<T>(low + width / 2, width / 2, ranks, i, stream, op);
  return op == ReduceOp::sum ? left + right : std::max(left, right);
}

template <typename T>
std::vector<T> expected(int ranks, size_t first, size_t count, uint64_t stream, ReduceOp op) {
  int width = 1;
  while (width < ranks) width *= 2;
  std::vector<T> v(count);
  for (size_t i = 0; i < count; ++i) v[i] = static_cast<T>(tree<T>(0, width, ranks, first + i, stream, op));
  return v;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <typename T>
bool near(const std::vector<T>& a, const std::vector<T>& b) {
  constexpr double tolerance = kHalf<T> ? 2e-2 : std::is_same_v<T, float> ? 1e-6 : 1e-14;
  for (size_t i = 0; i < a.size(); ++i) {
    double x, y;
    if constexpr (kHalf<T>)
      x = static_cast<float>(a[i]), y = static_cast<float>(b[i]);
    else
      x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    if (!(std::abs(x - y) <= tolerance * (1 + std::abs(y)))) return false;
  }
  return a.size() == b.size();
}

/// Throws unless every rank holds the same bits.
template <typename T>
void require_same_everywhere(Communicator& group, const std::vector<T>& mine, const std::string& what) {
  std::vector<T> first = mine;
  group.broadcast(first.data(), first.size() * sizeof(T), 0);
  require(same_bits(first, mine), what + ": rank 0 and rank " + std::to_string(group.rank()) + " hold other bits");
}

inline const std::vector<size_t> kCounts{0, 1, 7, 1000, 70001};
constexpr size_t kLargeCount = 1 << 20;

// ---- the checks

template <typename T>
void all_reduce_of(Communicator& group, size_t count, ReduceOp op) {
  const uint64_t stream = 11 + count;
  const std::string what =
      fmt::format("all_reduce {} {} x {}", op == ReduceOp::sum ? "sum" : "max", count, name_of(dtype_of<T>()));
  const std::vector<T> wanted = expected<T>(group.size(), 0, count, stream, op);
  const std::vector<T> mine = elements<T>(group.rank(), count, stream);
  std::vector<T> ordered = mine, fast = mine, again = mine;
  group.all_reduce(ordered.data(), count, dtype_of<T>(), op, Reduction::ordered);
  require(same_bits(ordered, wanted), what + " ordered: not the bits of the tree");
  group.all_reduce(fast.data(), count, dtype_of<T>(), op, Reduction::fast);
  require(near(fast, wanted), what + " fast: wrong");
  require_same_everywhere(group, fast, what + " fast");
  group.all_reduce(again.data(), count, dtype_of<T>(), op, Reduction::fast);
  require(same_bits(fast, again), what + " fast: a repetition gives other bits");
}

template <typename T>
void all_reduce_type(Communicator& group) {
  for (size_t count : kCounts)
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::max}) all_reduce_of<T>(group, count, op);
}

inline void check_all_reduce(Communicator& group) {
  all_reduce_type<float>(group);
  all_reduce_type<double>(group);
  all_reduce_type<BFloat16>(group);
  all_reduce_type<Float16>(group);
  all_reduce_type<int64_t>(group);
  all_reduce_type<int32_t>(group);
  all_reduce_of<float>(group, kLargeCount, ReduceOp::sum);
}

inline void check_all_reduce_keeps_nan(Communicator& group) {
  const int last = group.size() - 1;
  for (ReduceOp op : {ReduceOp::sum, ReduceOp::max}) {
    std::vector<float> v(9000, 1.0f);
    if (group.rank() == last) v[0] = v[8999] = std::nanf("");
    group.all_reduce(v.data(), v.size(), DType::f32, op, Reduction::fast);
    require(std::isnan(v[0]) && std::isnan(v[8999]) && !std::isnan(v[1]), "a NaN of one rank must reach all");
  }
}

template <typename T>
void reduce_scatter_of(Communicator& group, size_t count, Reduction order) {
  const uint64_t stream = 23 + count;
  const size_t n = static_cast<size_t>(group.size()), me = static_cast<size_t>(group.rank());
  const std::string what = fmt::format("reduce_scatter {} x {}", count, name_of(dtype_of<T>()));
  const std::vector<T> wanted = expected<T>(group.size(), me * count, count, stream, ReduceOp::sum);
  std::vector<T> in = elements<T>(group.rank(), n * count, stream), out(count);
  const std::vector<T> before = in;
  group.reduce_scatter(in.data(), out.data(), count, dtype_of<T>(), order);
  require(order == Reduction::ordered ? same_bits(out, wanted) : near(out, wanted), what + ": wrong");
  require(same_bits(in, before), what + ": the input was changed");
  group.reduce_scatter(in.data(), in.data() + me * count, count, dtype_of<T>(), order);
  require(std::equal(out.begin(), out.end(), in.begin() + static_cast<ptrdiff_t>(me * count),
                     [](const T& a, const T& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }),
          what + ": in place it gives other bits");
}

inline void check_reduce_scatter(Communicator& group) {
  for (Reduction order : {Reduction::fast, Reduction::ordered})
    for (size_t count : kCounts) {
      reduce_scatter_of<float>(group, count, order);
      reduce_scatter_of<BFloat16>(group, count, order);
      reduce_scatter_of<Float16>(group, count, order);
      reduce_scatter_of<double>(group, count, order);
      reduce_scatter_of<int32_t>(group, count, order);
    }
}

template <typename T>
void all_gather_of(Communicator& group, size_t count) {
  const size_t n = static_cast<size_t>(group.size()), me = static_cast<size_t>(group.rank());
  std::vector<T> wanted;
  for (int r = 0; r < group.size(); ++r)
    for (const T& v : elements<T>(r, count, 31)) wanted.push_back(v);
  const std::vector<T> in = elements<T>(group.rank(), count, 31);
  std::vector<T> out(n * count), in_place(n * count);
  group.all_gather(in.data(), out.data(), count, dtype_of<T>());
  require(same_bits(out, wanted), fmt::format("all_gather of {}: wrong", count));
  std::copy(in.begin(), in.end(), in_place.begin() + static_cast<ptrdiff_t>(me * count));
  group.all_gather(in_place.data() + me * count, in_place.data(), count, dtype_of<T>());
  require(same_bits(in_place, wanted), fmt::format("all_gather of {} in place: wrong", count));
}

inline void check_all_gather(Communicator& group) {
  for (size_t count : kCounts) all_gather_of<float>(group, count), all_gather_of<BFloat16>(group, count);
  all_gather_of<double>(group, kLargeCount / 8);
}

inline void check_all_to_all(Communicator& group) {
  for (size_t count : kCounts) {
    const size_t n = static_cast<size_t>(group.size()), me = static_cast<size_t>(group.rank());
    std::vector<float> wanted, out(n * count);
    for (int r = 0; r < group.size(); ++r) {
      const auto theirs = elements<float>(r, n * count, 37);
      wanted.insert(wanted.end(), theirs.begin() + static_cast<ptrdiff_t>(me * count),
                    theirs.begin() + static_cast<ptrdiff_t>((me + 1) * count));
    }
    const auto in = elements<float>(group.rank(), n * count, 37);
    group.all_to_all(in.data(), out.data(), count, DType::f32);
    require(same_bits(out, wanted), fmt::format("all_to_all of {}: wrong", count));
  }
}

/// By one and by two, forwards and back, and by nothing; long, empty.
inline void check_shift(Communicator& group) {
  const int n = group.size(), me = group.rank();
  for (const int distance : {1, -1, 2, n, -n - 1})
    for (size_t count : kCounts) {
      const int from = ((me - distance) % n + n) % n;
      const auto mine = elements<float>(me, count, 47), wanted = elements<float>(from, count, 47);
      std::vector<float> got(count);
      group.shift(mine.data(), got.data(), count * sizeof(float), distance);
      require(same_bits(got, wanted), fmt::format("shift of {} floats by {}: wrong", count, distance));
    }
  const auto mine = elements<float>(me, kLargeCount, 53), wanted = elements<float>((me + n - 1) % n, kLargeCount, 53);
  std::vector<float> got(kLargeCount);
  group.shift(mine.data(), got.data(), kLargeCount * sizeof(float), 1);
  require(same_bits(got, wanted), "shift of a long array: wrong");
}

inline void check_broadcast(Communicator& group) {
  for (int root = 0; root < group.size(); ++root)
    for (size_t count : kCounts) {
      const auto wanted = elements<float>(root, count, 41);
      auto data = elements<float>(group.rank(), count, 41);
      group.broadcast(data.data(), count * sizeof(float), root);
      require(same_bits(data, wanted), fmt::format("broadcast of {} from {}: wrong", count, root));
    }
}

inline void check_barrier(Communicator& group) {
  for (int late = 0; late < group.size(); ++late) {
    const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
    if (group.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    int64_t latest_arrival = now();
    group.barrier();
    const int64_t left = now();
    group.all_reduce(&latest_arrival, 1, DType::i64, ReduceOp::max, Reduction::fast);
    require(left >= latest_arrival, "a rank left a barrier before another came");
  }
}

/// A ring: even ranks send first. Long messages need both sides, empty ones must be matched as well.
inline void check_send_receive(Communicator& group) {
  if (group.size() == 1) return;
  const int next = (group.rank() + 1) % group.size(), before = (group.rank() + group.size() - 1) % group.size();
  for (size_t count : {size_t{0}, size_t{1}, size_t{1000}, size_t{70001}, kLargeCount}) {
    const auto mine = elements<float>(group.rank(), count, 43), wanted = elements<float>(before, count, 43);
    std::vector<float> got(count);
    const auto receive = [&] { group.receive(got.data(), count * sizeof(float), before); };
    if (group.rank() == 0) receive();
    group.send(mine.data(), count * sizeof(float), next);
    if (group.rank() != 0) receive();
    require(same_bits(got, wanted), fmt::format("message of {} floats: wrong", count));
  }
}

/// A path to each neighbour and back, of other sizes: senders run ahead as far as the path is deep, a path that nobody
/// takes from holds up no other, messages come in order.
inline void check_channels(Communicator& group) {
  const int n = group.size(), me = group.rank(), next = (me + 1) % n, before = (me + n - 1) % n;
  std::vector<ChannelSpec> paths;
  for (int r = 0; r < n && n > 1; ++r)
    paths.push_back({r, (r + 1) % n, 40000}), paths.push_back({r, (r + n - 1) % n, 12});
  constexpr int kDeep = 3;
  const auto channels = group.open_channels(paths, kDeep);
  if (n == 1) return;
  const auto message = [](int path, int number, size_t bytes) {
    return elements<int32_t>(path, bytes / 4, static_cast<uint64_t>(number));
  };
  const auto put = [&](int path, int number) {
    channels->put(path, message(path, number, paths[static_cast<size_t>(path)].bytes).data());
  };
  const auto take = [&](int path, int number) {
    std::vector<int32_t> got(paths[static_cast<size_t>(path)].bytes / 4);
    channels->take(path, got.data());
    require(got == message(path, number, got.size() * 4), fmt::format("path {}: message {} is wrong", path, number));
  };
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < kDeep; ++i) put(2 * me, round * kDeep + i);
    for (int i = 0; i < kDeep; ++i) put(2 * me + 1, round * kDeep + i);
    for (int i = 0; i < kDeep; ++i) take(2 * next + 1, round * kDeep + i), take(2 * before, round * kDeep + i);
  }
}

inline void check_split(Communicator& group) {
  const int me = group.rank(), n = group.size();
  auto part = group.split(me % 2, -me);  // the key reverses the order
  std::vector<int> members;
  for (int r = n - 1; r >= 0; --r)
    if (r % 2 == me % 2) members.push_back(r);
  require(part->size() == static_cast<int>(members.size()), "split: wrong size");
  require(members[static_cast<size_t>(part->rank())] == me, "split: wrong rank");

  int32_t sum = me, wanted = 0;
  for (int r : members) wanted += r;
  part->all_reduce(&sum, 1, DType::i32, ReduceOp::sum, Reduction::ordered);
  require(sum == wanted, "split: a sum over the part is wrong");
  check_all_gather(*part);

  auto alone = part->split(part->rank(), 0);
  require(alone->size() == 1 && alone->rank() == 0, "split of a split: wanted groups of one");
  auto whole = group.split(0, 0);
  require(whole->size() == n && whole->rank() == me, "split: equal keys keep the order of ranks");
  group.barrier();
}

inline void check_gather_strings(Communicator& group) {
  const auto text = [](int r) { return std::string(static_cast<size_t>(r * 300), static_cast<char>('a' + r)); };
  const auto all = gather_strings(group, text(group.rank()));
  require(all.size() == static_cast<size_t>(group.size()), "gather_strings: wrong count");
  for (int r = 0; r < group.size(); ++r) require(all[static_cast<size_t>(r)] == text(r), "gather_strings: wrong text");
}

inline void check_count(Communicator& group) {
  const size_t n = static_cast<size_t>(group.size()), elements = 12000;
  std::vector<float> a(elements * n), b(elements * n);
  const auto bytes_of_call = [&](auto call) {
    const CommunicationCount before = group.count();
    call();
    require(group.count().calls == before.calls + 1, "count: a call was not counted once");
    return group.count().bytes - before.bytes;
  };
  const size_t run = elements * 4;
  require(bytes_of_call([&] { group.all_reduce(a.data(), elements, DType::f32, ReduceOp::sum, Reduction::fast); }) ==
              2 * run * (n - 1) / n,
          "count: all_reduce");
  require(bytes_of_call([&] { group.reduce_scatter(a.data(), b.data(), elements, DType::f32, Reduction::fast); }) ==
              run * (n - 1),
          "count: reduce_scatter");
  require(bytes_of_call([&] { group.all_gather(a.data(), b.data(), elements, DType::f32); }) == run * (n - 1),
          "count: all_gather");
  require(bytes_of_call([&] { group.all_to_all(a.data(), b.data(), elements, DType::f32); }) == run * (n - 1),
          "count: all_to_all");
  require(bytes_of_call([&] { group.broadcast(a.data(), run, 0); }) == run * (n - 1) / n, "count: broadcast");
  require(bytes_of_call([&] { group.shift(a.data(), b.data(), run, 1); }) == (n > 1 ? run : 0), "count: shift");
  require(bytes_of_call([&] { group.barrier(); }) == 0, "count: barrier");
}

/// A long random sequence of calls, ranks out of step: memory that is used again too early shows here.
inline void check_random_sequence(Communicator& group) {
  const size_t n = static_cast<size_t>(group.size()), me = static_cast<size_t>(group.rank());
  for (size_t step = 0; step < 150; ++step) {
    const uint32_t dice = bits_of(0, step, 99), mine = bits_of(group.rank(), step, 98);
    if (mine % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(mine / 16 % 500));
    const size_t count = dice % 3 == 0 ? dice / 64 % 200000 : dice / 64 % 2000;
    const auto value = [&](size_t r, size_t i) { return static_cast<int32_t>(step * 1000 + r * 100 + i % 97); };
    const auto all_from = [&](const int32_t* data, size_t r) {
      bool right = true;
      for (size_t i = 0; i < count; ++i) right &= data[i] == value(r, i);
      return right;
    };
    std::vector<int32_t> in(count), out(count * n);
    for (size_t i = 0; i < count; ++i) in[i] = value(me, i);
    bool right = true;
    if (dice / 4 % 3 == 0) {
      group.all_gather(in.data(), out.data(), count, DType::i32);
      for (size_t r = 0; r < n; ++r) right &= all_from(out.data() + r * count, r);
    } else if (dice / 4 % 3 == 1) {
      group.all_reduce(in.data(), count, DType::i32, ReduceOp::max, Reduction::fast);
      right = all_from(in.data(), n - 1);
    } else {
      group.broadcast(in.data(), count * 4, static_cast<int>(dice % n));
      right = all_from(in.data(), dice % n);
    }
    require(right, fmt::format("random sequence: step {}, {} elements", step, count));
  }
}

struct Check {
  const char* name;
  void (*run)(Communicator&);
  friend std::ostream& operator<<(std::ostream& out, const Check& check) { return out << check.name; }
};

inline const std::vector<Check>& checks() {
  static const std::vector<Check> all{{"AllReduce", check_all_reduce},
                                      {"AllReduceKeepsNan", check_all_reduce_keeps_nan},
                                      {"ReduceScatter", check_reduce_scatter},
                                      {"AllGather", check_all_gather},
                                      {"AllToAll", check_all_to_all},
                                      {"Shift", check_shift},
                                      {"Broadcast", check_broadcast},
                                      {"Barrier", check_barrier},
                                      {"SendReceive", check_send_receive},
                                      {"Channels", check_channels},
                                      {"Split", check_split},
                                      {"GatherStrings", check_gather_strings},
                                      {"Count", check_count},
                                      {"RandomSequence", check_random_sequence}};
  return all;
}

}  // namespace capstan::suite
