#include "core/ops/elementwise.h"

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

/// Every dim passes through an elementwise op; so does Partial where it is linear.
std::vector<Signature> elementwise(std::span<const InputSpec> inputs, size_t outputs, bool linear) {
  std::vector<Signature> signatures =
      alike_on_leading(rank_of(inputs[0]), std::vector<bool>(inputs.size(), true), std::vector<bool>(outputs, true));
  if (linear)
    signatures.push_back({std::vector<Placement>(inputs.size(), Partial), std::vector<Placement>(outputs, Partial)});
  return signatures;
}

class Add final : public Op {
 public:
  std::string_view name() const override { return "add"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[0].spec.shape == in[1].spec.shape && in[0].spec.dtype == in[1].spec.dtype, "add: {} and {}",
                  to_string(in[0].spec), to_string(in[1].spec));
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override { return elementwise(in, 1, true); }
  std::vector<InPlace> in_place() const override { return {{0, 0}, {0, 1}}; }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override {
    a.contribute(0, a.gradient(0));
    a.contribute(1, a.gradient(0));
  }
  Bound bind(const BindContext& c) const override {
    const int64_t count = element_count(c.in_local[0]);
    return {0, [run = c.backend.add, count, dtype = c.in[0].dtype](const RunArgs& a) {
              run({a.in[0], a.in[1], a.out[0], count, dtype, 1, a.stream});
            }};
  }
};

class Scale final : public Op {
 public:
  explicit Scale(double factor) : factor_(factor) {}
  std::string_view name() const override { return "scale"; }
  std::string attributes() const override { return fmt::format("{}", factor_); }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override { return elementwise(in, 1, true); }
  std::vector<InPlace> in_place() const override { return {{0, 0}}; }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override { a.contribute(0, scale(a.recorder(), a.gradient(0), factor_)); }
  Bound bind(const BindContext& c) const override {
    const int64_t count = element_count(c.in_local[0]);
    return {0, [run = c.backend.scale, count, dtype = c.in[0].dtype, factor = factor_](const RunArgs& a) {
              run({a.in[0], a.out[0], factor, count, dtype, a.stream});
            }};
  }

 private:
  double factor_;
};

class Cast final : public Op {
 public:
  explicit Cast(DType to) : to_(to) {}
  std::string_view name() const override { return "cast"; }
  std::string attributes() const override { return name_of(to_); }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override { return {{in[0].spec.shape, to_}}; }
  // A copy is linear; rounding to another dtype is not.
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    return elementwise(in, 1, in[0].spec.dtype == to_);
  }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override {
    a.contribute(0, cast(a.recorder(), a.gradient(0), a.recorder().activations()));
  }
  Bound bind(const BindContext& c) const override {
    const int64_t count = element_count(c.in_local[0]);
    return {0, [run = c.backend.cast, count, from = c.in[0].dtype, to = to_](const RunArgs& a) {
              run({a.in[0], a.out[0], count, from, to, a.stream});
            }};
  }

 private:
  DType to_;
};

/// Takes shape and placement from its output, which has a place already.
class Clear final : public Op {
 public:
  std::string_view name() const override { return "clear"; }
  bool shapes_follow_output() const override { return true; }
  std::vector<TensorSpec> infer(std::span<const InputSpec>) const override { return {}; }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return {}; }
  Bound bind(const BindContext& c) const override {
    const int64_t count = element_count(c.out_local[0]);
    return {0, [fill = c.backend.fill, count, dtype = c.out[0].dtype](const RunArgs& a) {
              fill({a.out[0], count, 0.0, dtype, a.stream});
            }};
  }
};

class AccumulateInto final : public Op {
 public:
  std::string_view name() const override { return "accumulate"; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override { return elementwise(in, 1, true); }
  Bound bind(const BindContext& c) const override {
    const int64_t count = element_count(c.in_local[0]);
    return {0, [add = c.backend.add, copy = c.backend.cast, count, dtype = c.in[0].dtype](const RunArgs& a) {
              if (a.accumulate)
                add({a.out[0], a.in[0], a.out[0], count, dtype, 1, a.stream});
              else
                copy({a.in[0], a.out[0], count, dtype, dtype, a.stream});
            }};
  }
};

class Dropout final : public Op {
 public:
  Dropout(double probability, uint64_t site) : probability_(probability), site_(site) {}
  std::string_view name() const override { return "dropout"; }
  std::string attributes() const override { return fmt::format("p={} site={}", probability_, site_); }
  // inputs: x, residual (optional), step.random
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    // Samples, whose logical index is data (step.random), or runs of the next dim, whose offset bind knows.
    return alike_on_leading(rank_of(in[0]) > 2 ? 2 : 1, {true, true, false}, {true});
  }
  Kept kept() const override { return {0b100, 0}; }
  std::vector<InPlace> in_place() const override { return {{0, 0}, {0, 1}}; }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override {
    const Value dy = a.gradient(0);
    if (a.needs(1)) a.contribute(1, dy);
    if (a.needs(0))
      a.contribute(0, a.recorder().record_one(std::make_shared<Dropout>(probability_, site_), {dy, {}, a.input(2)},
                                              Purpose::gradient_activation));
  }
  Bound bind(const BindContext& c) const override {
    kernels::DropoutArgs args;
    args.dropout.probability = probability_;
    args.dropout.stream = site_;
    args.samples = c.in_local[0][0];
    args.sample_elements = element_count(c.in_local[0]) / std::max<int64_t>(args.samples, 1);
    const int64_t whole = c.in[0].elements() / std::max<int64_t>(c.in[0].shape[0], 1);
    args.dtype = c.in[0].dtype;
    if (whole != args.sample_elements) {
      const std::vector<Extent> runs = local_runs(c.in[0], 1, c.mesh);
      args.logical_elements = whole;
      args.first_element = runs[0].first * (whole / c.in[0].shape[1]);
      if (runs.size() > 1) return bind_runs(c, args, runs);
    }
    return {0, [run = c.backend.dropout, args](const RunArgs& a) {
              kernels::DropoutArgs now = args;
              now.x = a.in[0], now.residual = a.in[1], now.y = a.out[0];
              now.dropout.key = static_cast<const uint64_t*>(a.in[2]);
              now.dropout.first_sample = now.dropout.key + 1;
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  /// Several runs of each sample, one call for each.
  static Bound bind_runs(const BindContext& c, kernels::DropoutArgs args, const std::vector<Extent>& runs) {
    const int64_t token = args.logical_elements / c.in[0].shape[1];  // its elements
    const size_t element = bytes_of(args.dtype);
    return {0, [run = c.backend.dropout, samples = args.samples, args, runs, token, element](const RunArgs& a) {
              const uint64_t* random = static_cast<const uint64_t*>(a.in[2]);
              size_t at = 0;
              const auto from = [&](const void* data) { return data ? static_cast<const char*>(data) + at : nullptr; };
              for (int64_t s = 0; s < samples; ++s)
                for (const Extent& extent : runs) {
                  kernels::DropoutArgs now = args;
                  now.x = from(a.in[0]), now.residual = from(a.in[1]), now.y = static_cast<char*>(a.out[0]) + at;
                  now.dropout.key = random, now.dropout.first_sample = random + 1;
                  now.dropout.sample_offset = static_cast<uint64_t>(s);
                  now.samples = 1, now.sample_elements = extent.count * token;
                  now.first_element = extent.first * token;
                  now.stream = a.stream;
                  run(now);
                  at += static_cast<size_t>(now.sample_elements) * element;
                }
            }};
  }

  double probability_;
  uint64_t site_;
};

}  // namespace

Value add(Recorder& recorder, Value a, Value b) {
  const Purpose purpose = recorder.tape().at(a.id).purpose;
  return recorder.record_one(std::make_shared<Add>(), {a, b}, purpose);
}
Value scale(Recorder& recorder, Value x, double factor) {
  return recorder.record_one(std::make_shared<Scale>(factor), {x}, recorder.tape().at(x.id).purpose);
}
Value cast(Recorder& recorder, Value x, DType to) {
  return recorder.spec(x).dtype == to
             ? x
             : recorder.record_one(std::make_shared<Cast>(to), {x}, recorder.tape().at(x.id).purpose);
}

Value dropout(Recorder& recorder, Value x, Value residual, double probability, uint64_t site) {
  if (probability == 0.0 || !recorder.training()) return residual.present() ? add(recorder, x, residual) : x;
  return recorder.record_one(std::make_shared<Dropout>(probability, site),
                             {x, residual, recorder.persistent("step.random")});
}

OpPtr make_cast(DType to) { return std::make_shared<Cast>(to); }
OpPtr make_clear() { return std::make_shared<Clear>(); }
OpPtr make_accumulate() { return std::make_shared<AccumulateInto>(); }

void add_into(Recorder& recorder, Value a, Value b, Value target) {
  recorder.record_into(std::make_shared<Add>(), {a, b}, {target}, Accumulate::never);
}
void copy_into(Recorder& recorder, Value x, Value target) {
  recorder.record_into(std::make_shared<Cast>(recorder.spec(target).dtype), {x}, {target}, Accumulate::never);
}

}  // namespace capstan
