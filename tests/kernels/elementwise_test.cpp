// label: cpu
// Addition, scaling, casts and the key/value cache: exact to the bit on every backend.
#include "kernels/elementwise.h"

#include "tests/kernels/kernel_case_suite.h"

namespace capstan::kernels::testing {
namespace {

KernelCase add_case(int64_t count) {
  KernelCase c;
  c.any_alignment = true;
  c.name = "add_" + std::to_string(count);
  c.exact = true;
  c.forward.inputs = {{"a", Kind::element, random_values("a", count)}, {"b", Kind::element, random_values("b", count)}};
  c.forward.outputs = {{"y", Kind::element, sized(count)}};
  c.forward.aliases = {{"y", "a"}, {"y", "b"}};
  c.forward.run = [=](const Call& call) {
    call.backend.add({call.at.at("a"), call.at.at("b"), call.at.at("y"), count, call.dtype});
  };
  c.formula = [](const Values& in) {
    Values out{{"y", in.at("a")}};
    for (size_t i = 0; i < out["y"].size(); ++i) out["y"][i] += in.at("b")[i];
    return out;
  };
  return c;
}

KernelCase scale_case(int64_t count, double factor) {
  KernelCase c;
  c.any_alignment = true;
  c.name = "scale_" + std::to_string(count) + (factor < 0 ? "_negative" : "");
  c.exact = true;
  c.forward.inputs = {{"x", Kind::element, random_values("x", count)}};
  c.forward.outputs = {{"y", Kind::element, sized(count)}};
  c.forward.aliases = {{"y", "x"}};
  c.forward.run = [=](const Call& call) {
    call.backend.scale({call.at.at("x"), call.at.at("y"), factor, count, call.dtype});
  };
  c.formula = [=](const Values& in) {
    Values out{{"y", in.at("x")}};
    for (double& v : out["y"]) v *= factor;
    return out;
  };
  return c;
}

/// Ties, neighbours of ties, overflow, denormals, signed zero and infinities among ordinary numbers.
std::vector<double> hard_to_round(int64_t count) {
  const double hard[] = {1.0 + 0x1p-8,
                         1.0 + 0x3p-8,
                         -1.0 - 0x1p-8,
                         1.0 + 0x1p-8 + 0x1p-23,
                         1.0 + 0x1.8p-8,
                         0x1.ff8p127,
                         0x1.fep127,
                         -0.0,
                         0x1p-140,
                         0x1.8p-133,
                         INFINITY,
                         -INFINITY,
                         0x1.fefffep0,
                         0x1.01p-126,
                         1.0 + 0x1p-8 + 0x1p-40,
                         1.0 + 0x1p-8 - 0x1p-40,
                         65519.9,
                         -65520.0,
                         0x1.004p-14,
                         0x1.8p-24,
                         -0x1.8p-25,
                         0x1p-25,
                         0x1.0001p-25,
                         2048.0 + 1.0 + 0x1p-30,
                         2048.0 + 1.0 - 0x1p-30};
  std::vector<double> values = random_values("cast", count, 100.0);
  for (size_t i = 0; i < values.size() && i < std::size(hard); ++i) values[values.size() - 1 - i] = hard[i];
  return values;
}

/// Rounding to bf16 or f16 done on the value itself: scale so that the bits kept are an integer, round that to even.
double to_half(double x, DType half) {
  if (x == 0 || !std::isfinite(x)) return x;
  const bool brain = half == DType::bf16;
  int exponent;
  std::frexp(x, &exponent);
  const int unit = brain ? std::max(exponent - 8, -133) : std::max(exponent - 11, -24);
  const double r = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
  return std::fabs(r) >= (brain ? 0x1p128 : 0x1p16) ? std::copysign(INFINITY, x) : r;
}

KernelCase cast_case(Kind from, Kind to, int64_t count) {
  const DType source = dtype_of(from, DType::f32), target = dtype_of(to, DType::f32);
  KernelCase c;
  c.any_alignment = true;
  c.name = std::string("cast_") + name_of(source) + "_to_" + name_of(target) + "_" + std::to_string(count);
  c.exact = true;
  c.needs_f64 = source == DType::f64 || target == DType::f64;
  c.needs_f16 = source == DType::f16 || target == DType::f16;
  c.forward.inputs = {{"x", from, hard_to_round(count)}};
  c.forward.outputs = {{"y", to, sized(count)}};
  c.forward.run = [=](const Call& call) {
    call.backend.cast({call.at.at("x"), call.at.at("y"), count, source, target});
  };
  c.formula = [=](const Values& in) {
    Values out{{"y", rounded(in.at("x"), source)}};
    const bool half = target == DType::bf16 || target == DType::f16;
    for (double& v : out["y"]) v = half ? to_half(v, target) : rounded({v}, target)[0];
    return out;
  };
  return c;
}

KernelCase append_case(int64_t batch, int64_t rows, int64_t capacity, int64_t width) {
  KernelCase c;
  c.any_alignment = true;
  c.name = "append_" + std::to_string(batch) + "x" + std::to_string(rows) + "_to_" + std::to_string(capacity);
  c.exact = true;
  std::vector<double> lengths;
  for (int64_t b = 0; b < batch; ++b) {
    lengths.push_back(static_cast<double>(b == batch - 1 ? capacity : std::min(capacity, rows + b)));
  }
  c.forward.inputs = {{"x", Kind::element, random_values("x", batch * rows * width)},
                      {"old", Kind::element, random_values("old", batch * capacity * width)},
                      {"key_lengths", Kind::i32, lengths}};
  c.forward.outputs = {{.name = "cache", .values = sized(batch * capacity * width), .starts_as = "old"}};
  c.forward.run = [=](const Call& call) {
    call.backend.cache_append({call.at.at("x"), call.at.at("cache"), call.at.get<const int32_t>("key_lengths"), batch,
                               rows, capacity, width, call.dtype});
  };
  c.formula = [=](const Values& in) {
    Values out{{"cache", in.at("old")}};
    for (int64_t b = 0; b < batch; ++b) {
      const auto start = static_cast<int64_t>(lengths[static_cast<size_t>(b)]) - rows;
      for (int64_t i = 0; i < rows * width; ++i) {
        out["cache"][static_cast<size_t>((b * capacity + start) * width + i)] =
            in.at("x")[static_cast<size_t>(b * rows * width + i)];
      }
    }
    return out;
  };
  return c;
}

/// One row added to each of several.
KernelCase add_row_case(int64_t rows, int64_t count) {
  KernelCase c = add_case(rows * count);
  c.name = "add_row_" + std::to_string(count) + "_to_" + std::to_string(rows);
  c.forward.inputs[1] = {"b", Kind::element, random_values("b", count)};
  c.forward.aliases = {{"y", "a"}};
  c.forward.run = [=](const Call& call) {
    call.backend.add({call.at.at("a"), call.at.at("b"), call.at.at("y"), count, call.dtype, rows});
  };
  c.formula = [=](const Values& in) {
    Values out{{"y", in.at("a")}};
    for (size_t i = 0; i < out["y"].size(); ++i) out["y"][i] += in.at("b")[i % static_cast<size_t>(count)];
    return out;
  };
  return c;
}

/// Rows out of a wider matrix into another; what lies between them stays.
KernelCase copy_case(int64_t rows, int64_t width, int64_t from_width, int64_t to_width) {
  KernelCase c;
  c.any_alignment = true;
  c.name = "copy_" + std::to_string(rows) + "x" + std::to_string(width) + "_of_" + std::to_string(from_width) + "_to_" +
           std::to_string(to_width);
  c.exact = true;
  c.forward.inputs = {{"x", Kind::element, random_values("x", rows * from_width)},
                      {"old", Kind::element, random_values("old", rows * to_width)}};
  c.forward.outputs = {{.name = "y", .values = sized(rows * to_width), .starts_as = "old"}};
  c.forward.run = [=](const Call& call) {
    const auto bytes = [&](int64_t n) { return static_cast<size_t>(n) * bytes_of(call.dtype); };
    call.backend.copy({call.at.at("x"), call.at.at("y"), bytes(width), rows, bytes(from_width), bytes(to_width)});
  };
  c.formula = [=](const Values& in) {
    Values out{{"y", in.at("old")}};
    for (int64_t i = 0; i < rows * width; ++i) {
      out["y"][static_cast<size_t>(i / width * to_width + i % width)] =
          in.at("x")[static_cast<size_t>(i / width * from_width + i % width)];
    }
    return out;
  };
  return c;
}

KernelCase fill_case(Kind kind, int64_t count, double value) {
  KernelCase c;
  c.any_alignment = true;
  c.name = "fill_" + std::to_string(count) + "_" + name_of(dtype_of(kind, DType::bf16)) + "_with_" +
           std::to_string(static_cast<int>(value * 4)) + (kind == Kind::element ? "_element" : "");
  c.exact = true;
  c.forward.outputs = {{.name = "y", .kind = kind, .values = sized(count)}};
  c.forward.run = [=](const Call& call) {
    call.backend.fill({call.at.at("y"), count, value, dtype_of(kind, call.dtype)});
  };
  c.formula = [=](const Values&) {
    return Values{
        {"y", std::vector<double>(static_cast<size_t>(count), kind == Kind::i32 ? std::trunc(value) : value)}};
  };
  return c;
}

std::vector<KernelCase> elementwise_cases() {
  std::vector<KernelCase> cases;
  for (const auto& [rows, count] : {std::pair<int64_t, int64_t>{1, 7}, {3, 5}, {17, 64}, {5, 1003}}) {
    cases.push_back(add_row_case(rows, count));
  }
  cases.push_back(copy_case(1, 1000, 1000, 1000));
  cases.push_back(copy_case(5, 3, 7, 4));
  cases.push_back(copy_case(70, 64, 64, 96));
  cases.push_back(copy_case(3, 2500, 2504, 2500));
  cases.push_back(copy_case(300, 1, 3, 1));
  for (const Kind kind : {Kind::element, Kind::f64, Kind::f32, Kind::i32}) {
    cases.push_back(fill_case(kind, 1, 2.5));
    cases.push_back(fill_case(kind, 1003, -0.25));
    cases.push_back(fill_case(kind, 64, 0.0));
  }
  for (const int64_t count : {1, 2, 3, 17, 63, 64, 65, 257, 100003}) {
    cases.push_back(add_case(count));
    cases.push_back(scale_case(count, count % 2 == 0 ? -0.37 : 1.7));
  }
  for (const int64_t count : {1, 33, 257, 70001}) {
    for (const Kind from : {Kind::f64, Kind::f32, Kind::bf16, Kind::f16}) {
      for (const Kind to : {Kind::f64, Kind::f32, Kind::bf16, Kind::f16}) cases.push_back(cast_case(from, to, count));
    }
  }
  cases.push_back(append_case(1, 1, 1, 1));
  cases.push_back(append_case(3, 1, 17, 64));
  cases.push_back(append_case(2, 5, 9, 33));
  cases.push_back(append_case(2, 70, 100, 701));
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Elementwise, KernelSuite, all_of(elementwise_cases()));

TEST(Cast, KeepsNotANumber) {
  for (const Backend& backend : all_backends()) {
    const float x[3] = {NAN, 1.0f, -NAN};
    BFloat16 y[3];
    CastArgs args{x, y, 3, DType::f32, DType::bf16};
    Mirror mirror(backend);
    mirror.add(x, sizeof x), mirror.add(y, sizeof y);
    mirror.move(args.x), mirror.move(args.y);
    backend.cast(args);
    mirror.back();
    EXPECT_TRUE(std::isnan(static_cast<float>(y[0]))) << backend.instruction_set;
    EXPECT_EQ(static_cast<float>(y[1]), 1.0f);
    EXPECT_TRUE(std::isnan(static_cast<float>(y[2])));
  }
}

TEST(CacheAppend, ReferenceRefusesRowsOutsideTheCache) {
  const KernelCase c = append_case(1, 3, 4, 2);
  Values values = inputs_of(c.forward);
  for (const double bad : {2.0, 5.0}) {
    values["key_lengths"] = {bad};
    EXPECT_THROW(run_stage(c.forward, reference_backend(), DType::f32, values), std::out_of_range);
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
