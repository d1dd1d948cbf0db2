// label: cpu
// The cpu backend's products at the sizes where its ways differ: against the reference for every block edge, the same
// bits again and with other threads beside them, no allocation, and nothing written outside C and the scratch.
#include "kernels/matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernels/kernel_backends.h"

// Every allocation of the program passes here, those of the libraries too.
namespace {
std::atomic<size_t> largest_allocation{0};
void note_allocation(size_t bytes) {
  size_t seen = largest_allocation.load();
  while (bytes > seen && !largest_allocation.compare_exchange_weak(seen, bytes)) {
  }
}
}  // namespace
extern "C" {
void* __libc_malloc(size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t bytes) {
  note_allocation(bytes);
  return __libc_malloc(bytes);
}
int posix_memalign(void** where, size_t alignment, size_t bytes) {
  note_allocation(bytes);
  *where = __libc_memalign(alignment, bytes);
  return *where ? 0 : 12;
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  note_allocation(bytes);
  return __libc_memalign(alignment, bytes);
}
}

namespace capstan::kernels::testing {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xA5;

/// Aligned bytes between two guards.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes), store_(bytes + 2 * kGuard + 64, kGuardByte) {
    const auto address = reinterpret_cast<uintptr_t>(store_.data()) + kGuard;
    data_ = store_.data() + kGuard + (64 - address % 64) % 64;
  }
  void* data() { return data_; }
  const unsigned char* bytes() const { return data_; }
  size_t size() const { return bytes_; }
  bool guarded() const {
    const auto intact = [](unsigned char c) { return c == kGuardByte; };
    return std::all_of(store_.data(), static_cast<const unsigned char*>(data_), intact) &&
           std::all_of(static_cast<const unsigned char*>(data_) + bytes_, store_.data() + store_.size(), intact);
  }

 private:
  size_t bytes_;
  std::vector<unsigned char> store_;
  unsigned char* data_;
};

void fill(Buffer& buffer, DType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  const size_t count = buffer.size() / bytes_of(dtype);
  for (size_t i = 0; i < count; ++i) {
    const float x = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f;
    if (dtype == DType::f32)
      static_cast<float*>(buffer.data())[i] = x;
    else
      static_cast<BFloat16*>(buffer.data())[i] = BFloat16(x);
  }
}

float at(const Buffer& buffer, DType dtype, size_t i) {
  return dtype == DType::f32 ? reinterpret_cast<const float*>(buffer.bytes())[i]
                             : static_cast<float>(reinterpret_cast<const BFloat16*>(buffer.bytes())[i]);
}

size_t bytes_for(DType dtype, int64_t count) { return bytes_of(dtype) * static_cast<size_t>(count); }

/// One product with its operands.
struct Product {
  MatmulShape shape;
  Buffer a, b, bias, c;
  explicit Product(const MatmulShape& s)
      : shape(s),
        a(bytes_for(s.a, s.m * s.k)),
        b(bytes_for(s.b, s.k * s.n)),
        bias(bytes_for(s.a, s.bias ? s.n : 0)),
        c(bytes_for(s.c, s.m * s.n)) {
    fill(a, s.a, 1), fill(b, s.b, 2), fill(bias, s.a, 3);
  }
  void run(const Backend& backend, bool accumulate = false) {
    fill(c, shape.c, 4);
    const auto prepared = backend.prepare_matmul(shape);
    Buffer scratch(prepared->scratch_bytes());
    prepared->run({a.data(), b.data(), shape.bias ? bias.data() : nullptr, c.data(), accumulate}, scratch.data());
    EXPECT_TRUE(scratch.guarded()) << "scratch overrun";
    EXPECT_TRUE(c.guarded()) << "C overrun";
  }
};

MatmulShape shape_of(int64_t m, int64_t n, int64_t k, int mode, DType dtype, DType c) {
  MatmulShape s{
      .m = m, .n = n, .k = k, .transpose_a = mode == 2, .transpose_b = mode == 0, .a = dtype, .b = dtype, .c = c};
  s.may_accumulate = mode == 2;
  s.bias = mode == 0;
  return s;
}

void expect_equal(const MatmulShape& shape, const Backend& backend, bool accumulate) {
  Product got(shape), want(shape);
  want.run(reference_backend(), accumulate);
  got.run(backend, accumulate);
  const double width = shape.c == DType::bf16 ? 0x1p-7 : 0;
  const double noise = std::sqrt(static_cast<double>(shape.k) + 4) * 4e-6;
  for (size_t i = 0; i < static_cast<size_t>(shape.m * shape.n); ++i) {
    const double w = at(want.c, shape.c, i), g = at(got.c, shape.c, i);
    ASSERT_NEAR(g, w, noise + width * std::fabs(w)) << "element " << i;
  }
}

TEST(MatmulCpu, EqualsTheReferenceAtTheEdgesOfItsBlocks) {
  const int64_t sizes[][3] = {{13, 31, 5},    {12, 17, 33},   {1, 50, 70},   {5, 9, 257},  {14, 16, 256}, {15, 33, 255},
                              {170, 48, 257}, {83, 100, 513}, {200, 7, 300}, {37, 130, 1}, {169, 65, 520}};
  for (const Backend& backend : cpu_backends()) {
    for (const auto& [m, n, k] : sizes) {
      for (int mode = 0; mode < 3; ++mode) {
        for (const auto& [dtype, c] : {std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::bf16},
                                       std::pair{DType::bf16, DType::f32}}) {
          SCOPED_TRACE(backend.instruction_set + " " + name_of(dtype) + " to " + name_of(c) + " mode " +
                       std::to_string(mode) + ": " + std::to_string(m) + " " + std::to_string(n) + " " +
                       std::to_string(k));
          const MatmulShape shape = shape_of(m, n, k, mode, dtype, c);
          expect_equal(shape, backend, false);
          if (shape.may_accumulate) expect_equal(shape, backend, true);
        }
      }
    }
  }
}

TEST(MatmulCpu, OurOwnProductGivesTheSameBitsForAnyNumberOfThreads) {
  const int before = omp_get_max_threads();
  for (const Backend& backend : cpu_backends()) {
    if (backend.instruction_set.rfind("avx512", 0) == 0) continue;  // the library's
    for (int mode = 0; mode < 3; ++mode) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        Product one(shape_of(190, 150, 600, mode, dtype, dtype)), many(one.shape);
        omp_set_num_threads(1);
        one.run(backend);
        for (const int threads : {2, 3, 5}) {
          omp_set_num_threads(threads);
          many.run(backend);
          EXPECT_EQ(std::memcmp(one.c.bytes(), many.c.bytes(), one.c.size()), 0)
              << backend.instruction_set << " mode " << mode << " " << threads << " threads";
        }
      }
    }
  }
  omp_set_num_threads(before);
}

TEST(MatmulCpu, RanksAsThreadsDoNotDisturbEachOther) {
  const Backend backend = cpu_backends().back();
  const int before = omp_get_max_threads();
  omp_set_num_threads(2);
  const MatmulShape shape = shape_of(300, 200, 300, 0, DType::f32, DType::f32);
  Product want(shape);
  want.run(backend);
  std::vector<std::thread> ranks;
  std::atomic<int> wrong{0};
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&] {
      omp_set_num_threads(2);
      for (int i = 0; i < 5; ++i) {
        Product mine(shape);
        mine.run(backend);
        if (std::memcmp(mine.c.bytes(), want.c.bytes(), want.c.size()) != 0) ++wrong;
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  omp_set_num_threads(before);
  EXPECT_EQ(wrong, 0);
}

TEST(MatmulCpu, RunAllocatesNothingLarge) {
  for (const Backend& backend : cpu_backends()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (int mode = 0; mode < 3; ++mode) {
        for (const int64_t rows : {4, 64, 1024}) {
          Product p(shape_of(rows, 384, 256, mode, dtype, mode == 2 ? DType::f32 : dtype));
          const auto prepared = backend.prepare_matmul(p.shape);
          Buffer scratch(prepared->scratch_bytes());
          const auto run = [&] {
            prepared->run({p.a.data(), p.b.data(), p.shape.bias ? p.bias.data() : nullptr, p.c.data(), mode == 2},
                          scratch.data());
          };
          run();
          largest_allocation = 0;
          run();
          EXPECT_LE(largest_allocation.load(), 4096u)
              << backend.instruction_set << " " << name_of(dtype) << " mode " << mode << " rows " << rows;
        }
      }
    }
  }
}

TEST(MatmulCpu, AllocationsAreSeen) {
  largest_allocation = 0;
  std::vector<char> bytes(100000);
  bytes[1] = 1;
  EXPECT_GE(largest_allocation.load(), 100000u);
}

TEST(MatmulCpu, RefusesTypesItDoesNotHave) {
  for (const Backend& backend : cpu_backends()) {
    EXPECT_THROW(backend.prepare_matmul(shape_of(4, 4, 4, 1, DType::f64, DType::f64)), std::invalid_argument);
    EXPECT_THROW(backend.prepare_matmul(shape_of(4, 4, 4, 1, DType::f32, DType::bf16)), std::invalid_argument);
    MatmulShape both = shape_of(4, 4, 4, 2, DType::f32, DType::f32);
    both.bias = true;
    EXPECT_THROW(backend.prepare_matmul(both), std::invalid_argument);
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
