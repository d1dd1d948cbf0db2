#include "core/ops/embedding.h"

#include "core/backward.h"
#include "core/error.h"
#include "core/ops/signatures.h"

namespace capstan {
namespace {

/// Which rows of the table a rank holds, as the kernels are told: ids count from `offset` rows behind the first.
template <typename Args>
void take_rows(Args& args, const BindContext& c, const TensorSpec& table, int64_t offset) {
  args.first = local_extents(table, c.mesh)[0].first - offset, args.all = table.shape[0] - offset;
}

class EmbeddingGradient final : public Op {
 public:
  explicit EmbeddingGradient(int64_t offset) : offset_(offset) {}
  std::string attributes() const override { return offset_ ? fmt::format("offset={}", offset_) : ""; }
  std::string_view name() const override { return "embedding gradient"; }
  // inputs: dy, ids, table (only its shape and placement are read) -> dtable
  uint32_t reads() const override { return 0b011; }
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    return {{in[2].spec.shape, accumulation_of(in[0].spec.dtype)}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules{all_replicate(3, 1)};
    for (int dim = 0; dim < rank_of(in[1]); ++dim) rules.push_back({{Shard(dim), Shard(dim), Replicate}, {Partial}});
    rules.push_back({{Replicate, Replicate, Shard(0)}, {Shard(0)}});  // vocabulary parallel
    rules.push_back({{Partial, Replicate, Replicate}, {Partial}});
    return rules;
  }
  Cost cost(std::span<const TensorSpec> in, std::span<const TensorSpec>) const override {
    return {0.0, 2.0 * static_cast<double>(in[0].elements() * bytes_of(in[0].dtype))};
  }
  Bound bind(const BindContext& c) const override {
    kernels::EmbeddingBackwardArgs args;
    args.rows = row_count(c.in_local[0]);
    args.entries = c.out_local[0][0];
    args.width = c.out_local[0][1];
    args.dtype = c.in[0].dtype;
    take_rows(args, c, c.in[2], offset_);
    return {c.backend.embedding_backward_scratch(args.rows, args.entries),
            [run = c.backend.embedding_backward, args](const RunArgs& a) {
              kernels::EmbeddingBackwardArgs now = args;
              now.dy = a.in[0], now.ids = static_cast<const int32_t*>(a.in[1]), now.dtable = a.out[0];
              now.accumulate = a.accumulate, now.scratch = a.scratch;
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  int64_t offset_;
};

class Embedding final : public Op {
 public:
  explicit Embedding(int64_t offset) : offset_(offset) {}
  std::string attributes() const override { return offset_ ? fmt::format("offset={}", offset_) : ""; }
  std::string_view name() const override { return "embedding"; }
  // inputs: ids, table, base (optional)
  std::vector<TensorSpec> infer(std::span<const InputSpec> in) const override {
    CAPSTAN_CHECK(in[0].spec.dtype == DType::i32 && in[1].spec.shape.size() == 2, "embedding: ids {} and table {}",
                  to_string(in[0].spec), to_string(in[1].spec));
    Shape shape = in[0].spec.shape;
    shape.push_back(in[1].spec.shape[1]);
    CAPSTAN_CHECK(!in[2].present || in[2].spec.shape == shape, "embedding: base {}", to_string(in[2].spec));
    return {{shape, in[1].spec.dtype}};
  }
  std::vector<Signature> signatures(std::span<const InputSpec> in) const override {
    std::vector<Signature> rules = alike_on_leading(rank_of(in[0]), {true, false, true}, {true});
    if (!in[2].present) rules.push_back({{Replicate, Shard(0), Replicate}, {Partial}});  // vocabulary parallel
    return rules;
  }
  Kept kept() const override { return {0b011, 0}; }
  std::vector<InPlace> in_place() const override { return {{0, 2}}; }
  bool cheap() const override { return true; }
  void adjoint(Adjoint& a) const override {
    const Value dy = a.gradient(0);
    if (a.needs(2)) a.contribute(2, dy);
    if (!a.needs(1)) return;
    CAPSTAN_CHECK(a.parameter_buffer(1).present(), "the table of an embedding is a parameter");
    a.recorder().record_into(std::make_shared<EmbeddingGradient>(offset_), {dy, a.input(0), a.input(1)},
                             {a.parameter_buffer(1)}, a.claim({1}), Purpose::gradient);
  }
  Cost cost(std::span<const TensorSpec>, std::span<const TensorSpec> out) const override {
    return {0.0, 2.0 * static_cast<double>(out[0].elements() * bytes_of(out[0].dtype))};  // rows read, not the table
  }
  Bound bind(const BindContext& c) const override {
    kernels::EmbeddingArgs args;
    args.rows = element_count(c.in_local[0]);
    args.entries = c.in_local[1][0];
    args.width = c.in_local[1][1];
    args.dtype = c.out[0].dtype;
    take_rows(args, c, c.in[1], offset_);
    return {0, [run = c.backend.embedding, args](const RunArgs& a) {
              kernels::EmbeddingArgs now = args;
              now.ids = static_cast<const int32_t*>(a.in[0]), now.table = a.in[1], now.add = a.in[2], now.y = a.out[0];
              now.stream = a.stream;
              run(now);
            }};
  }

 private:
  int64_t offset_;
};

}  // namespace

Value embedding(Recorder& recorder, Value ids, Value table, Value base, int64_t offset) {
  return recorder.record_one(std::make_shared<Embedding>(offset), {ids, table, base});
}

}  // namespace capstan
