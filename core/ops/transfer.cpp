#include "core/ops/transfer.h"

#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

class Send final : public Op {
 public:
  bool capturable() const override { return false; }  // paths have streams of their own
  Send(int path, int to) : path_(path), to_(to) {}
  std::string_view name() const override { return "send"; }
  std::string attributes() const override { return fmt::format("pp path {} to stage {}", path_, to_); }
  bool is_collective() const override { return true; }
  std::vector<TensorSpec> infer(std::span<const InputSpec>) const override { return {}; }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return {all_replicate(1, 0)}; }
  Wire wire(std::span<const TensorSpec> in, std::span<const TensorSpec>, const Mesh&) const override {
    return {Axis::pp, static_cast<double>(in[0].elements() * bytes_of(in[0].dtype))};
  }
  Bound bind(const BindContext& c) const override {
    return {0, [channels = c.channels, path = path_](const RunArgs& a) { channels->put(path, a.in[0]); }};
  }

 private:
  int path_, to_;
};

class Receive final : public Op {
 public:
  bool capturable() const override { return false; }
  Receive(int path, int from, const TensorSpec& spec) : path_(path), from_(from), spec_(spec) {}
  std::string_view name() const override { return "receive"; }
  std::string attributes() const override { return fmt::format("pp path {} from stage {}", path_, from_); }
  bool is_collective() const override { return true; }
  std::vector<TensorSpec> infer(std::span<const InputSpec>) const override { return {spec_}; }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return {all_replicate(0, 1)}; }
  Wire wire(std::span<const TensorSpec>, std::span<const TensorSpec>, const Mesh&) const override {
    return {Axis::pp, 0.0};
  }
  Bound bind(const BindContext& c) const override {
    return {0, [channels = c.channels, path = path_](const RunArgs& a) { channels->take(path, a.out[0]); }};
  }

 private:
  int path_, from_;
  TensorSpec spec_;
};

class SumOverEnds final : public Op {
 public:
  std::string_view name() const override { return "all-reduce"; }
  std::string attributes() const override { return "pp first and last stage"; }
  bool is_collective() const override { return true; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[0].spec.shape, in[0].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    return alike_on_leading(rank_of(in[0]), {true}, {true});
  }
  Wire wire(std::span<const TensorSpec> in, std::span<const TensorSpec>, const Mesh&) const override {
    return {Axis::pp, static_cast<double>(in[0].elements() * bytes_of(in[0].dtype))};  // 2 (n-1)/n B of two ranks
  }
  Bound bind(const BindContext& c) const override {
    const size_t count = static_cast<size_t>(element_count(c.in_local[0]));
    return {0, [group = c.communicators.ends, copy = c.backend.copy, count, dtype = c.in[0].dtype,
                order = c.reduction](const RunArgs& a) {
              if (a.in[0] != a.out[0]) copy({a.in[0], a.out[0], count * bytes_of(dtype), 1, 0, 0, a.stream});
              group->all_reduce(a.out[0], count, dtype, ReduceOp::sum, order);
            }};
  }
};

}  // namespace

OpPtr make_send(int path, int to_stage) { return std::make_shared<Send>(path, to_stage); }

OpPtr make_receive(int path, int from_stage, const TensorSpec& spec) {
  return std::make_shared<Receive>(path, from_stage, spec);
}

Value sum_over_ends(Recorder& recorder, Value x) {
  return recorder.record_one(std::make_shared<SumOverEnds>(), {x}, recorder.tape().at(x.id).purpose);
}
void sum_over_ends(Recorder& recorder, Value x, Value target) {
  recorder.record_into(std::make_shared<SumOverEnds>(), {x}, {target}, Accumulate::never);
}

}  // namespace capstan
