#include "core/ops/conversion.h"

#include "core/backward.h"
#include "core/error.h"

namespace capstan {
namespace {

/// A tensor seen around dim d: outer x extent x inner elements.
struct DimView {
  int64_t outer = 1, extent = 1, inner = 1;
  DimView(const Shape& shape, int dim) {
    for (int i = 0; i < static_cast<int>(shape.size()); ++i)
      (i < dim ? outer : i == dim ? extent : inner) *= shape[static_cast<size_t>(i)];
  }
};

class Conversion final : public Op {
 public:
  Conversion(Axis axis, Placement from, Placement to) : axis_(axis), from_(from), to_(to) {}

  std::string_view name() const override {
    if (from_.is_partial()) return to_.is_shard() ? "reduce-scatter" : "all-reduce";
    if (from_.is_shard()) return to_.is_shard() ? "all-to-all" : "all-gather";
    return "slice";
  }
  std::string attributes() const override {
    return fmt::format("{} {}->{}", name_of(axis_), to_string(from_), to_string(to_));
  }
  bool is_collective() const override { return true; }

  std::vector<TensorSpec> infer(std::span<const InputSpec> inputs) const override {
    TensorSpec out = inputs[0].spec;
    out.placements = with(out.placements, axis_, to_);
    return {out};
  }
  std::vector<Signature> signatures(std::span<const InputSpec>) const override { return {{{from_}, {to_}}}; }
  /// A gathered tensor can be gathered again and a slice cut again: what keeps activations at a shard of their size.
  bool cheap() const override { return !from_.is_partial() && !(from_.is_shard() && to_.is_shard()); }
  std::vector<InPlace> in_place() const override {
    return from_.is_partial() && to_.is_replicate() ? std::vector<InPlace>{{0, 0}} : std::vector<InPlace>{};
  }

  void adjoint(Adjoint& a) const override {
    if (a.needs(0) && a.gradient(0).present())
      a.contribute(0, a.recorder().convert(a.gradient(0), axis_, dual_of(from_)));
  }

  Wire wire(std::span<const TensorSpec> in, std::span<const TensorSpec>, const Mesh& mesh) const override {
    const double bytes = static_cast<double>(in[0].elements() * bytes_of(in[0].dtype)), ranks = mesh.size(axis_);
    if (from_.is_partial()) return {axis_, (to_.is_shard() ? 1.0 : 2.0) * bytes * (ranks - 1.0) / ranks};
    if (!from_.is_shard()) return {axis_, 0.0};
    return {axis_, to_.is_shard() ? bytes * (ranks - 1.0) / ranks : bytes * (ranks - 1.0)};
  }

  Bound bind(const BindContext& context) const override {
    if (from_.is_partial() && to_.is_replicate()) return bind_all_reduce(context);
    if (!from_.is_partial() && !from_.is_shard()) return bind_slice(context);
    return bind_exchange(context);
  }

 private:
  Bound bind_all_reduce(const BindContext& context) const {
    Communicator* group = context.communicators.of[static_cast<size_t>(axis_)];
    const size_t count = static_cast<size_t>(element_count(context.in_local[0]));
    const DType dtype = context.in[0].dtype;
    const Reduction order = context.reduction;
    return {0, [=, copy = context.backend.copy](const RunArgs& a) {
              if (a.in[0] != a.out[0]) copy({a.in[0], a.out[0], count * bytes_of(dtype), 1, 0, 0, a.stream});
              group->all_reduce(a.out[0], count, dtype, ReduceOp::sum, order);
            }};
  }

  Bound bind_slice(const BindContext& context) const {
    const DimView view(context.in_local[0], to_.dim);
    const int64_t part = view.extent / context.mesh.size(axis_);
    const int64_t first = part * context.mesh.coordinate(axis_);
    const size_t size = bytes_of(context.in[0].dtype);
    const size_t run = static_cast<size_t>(part * view.inner) * size;
    const size_t stride = static_cast<size_t>(view.extent * view.inner) * size;
    const size_t skipped = static_cast<size_t>(first * view.inner) * size;
    return {0, [=, copy = context.backend.copy, rows = view.outer](const RunArgs& a) {
              copy({static_cast<const char*>(a.in[0]) + skipped, a.out[0], run, rows, stride, run, a.stream});
            }};
  }

  /// reduce-scatter, all-gather and all-to-all on any dim: runs of the dim are packed rank by rank in scratch.
  Bound bind_exchange(const BindContext& context) const {
    const int ranks = context.mesh.size(axis_);
    const size_t size = bytes_of(context.in[0].dtype);
    const size_t in_count = static_cast<size_t>(element_count(context.in_local[0]));
    const size_t out_count = static_cast<size_t>(element_count(context.out_local[0]));
    // Runs of the outermost dim of a tensor are dense as they are.
    const bool packs = to_.is_shard() && DimView(context.in_local[0], to_.dim).outer > 1;
    const bool unpacks = from_.is_shard() && DimView(context.out_local[0], from_.dim).outer > 1;
    const size_t in_bytes = packs ? aligned_bytes(in_count * size) : 0;
    const size_t out_bytes = unpacks ? aligned_bytes(out_count * size) : 0;
    const Shape in_shape = context.in_local[0], out_shape = context.out_local[0];
    const DType dtype = context.in[0].dtype;
    const Reduction order = context.reduction;
    Communicator* group = context.communicators.of[static_cast<size_t>(axis_)];
    const Conversion self = *this;
    return {in_bytes + out_bytes, [=, copy = context.backend.copy](const RunArgs& a) {
              char* send = static_cast<char*>(a.scratch);
              void* receive = unpacks ? send + in_bytes : a.out[0];
              const void* packed = a.in[0];
              if (packs) self.pack(copy, in_shape, ranks, size, a, send), packed = send;
              if (self.from_.is_partial())
                group->reduce_scatter(packed, a.out[0], out_count, dtype, order);
              else if (self.to_.is_shard())
                group->all_to_all(packed, receive, in_count / static_cast<size_t>(ranks), dtype);
              else
                group->all_gather(packed, receive, in_count, dtype);
              if (unpacks) self.unpack(copy, out_shape, ranks, size, static_cast<const char*>(receive), a);
            }};
  }

  static size_t aligned_bytes(size_t bytes) { return (bytes + 63) / 64 * 64; }

  using Copy = void (*)(const kernels::CopyArgs&);
  /// Splits dim to_.dim of a tensor into one dense run per rank.
  void pack(Copy copy, const Shape& shape, int ranks, size_t size, const RunArgs& a, char* to) const {
    const DimView view(shape, to_.dim);
    const size_t run = static_cast<size_t>(view.extent / ranks * view.inner) * size;
    const char* from = static_cast<const char*>(a.in[0]);
    for (int r = 0; r < ranks; ++r, from += run, to += static_cast<size_t>(view.outer) * run)
      copy({from, to, run, view.outer, static_cast<size_t>(ranks) * run, run, a.stream});
  }
  /// Joins one dense run per rank along dim from_.dim.
  void unpack(Copy copy, const Shape& shape, int ranks, size_t size, const char* from, const RunArgs& a) const {
    const DimView view(shape, from_.dim);
    const size_t run = static_cast<size_t>(view.extent / ranks * view.inner) * size;
    char* to = static_cast<char*>(a.out[0]);
    for (int r = 0; r < ranks; ++r, to += run, from += static_cast<size_t>(view.outer) * run)
      copy({from, to, run, view.outer, run, static_cast<size_t>(ranks) * run, a.stream});
  }

  Axis axis_;
  Placement from_, to_;
};

}  // namespace

OpPtr make_conversion(Axis axis, Placement from, Placement to) {
  CAPSTAN_CHECK(!to.is_partial() && from != to, "there is no conversion {} -> {}", to_string(from), to_string(to));
  CAPSTAN_CHECK(axis != Axis::cp || (!from.is_shard() && !to.is_shard()),
                "conversion {} -> {} on cp: what it divides stays so from the inputs to the loss", to_string(from),
                to_string(to));
  return std::make_shared<Conversion>(axis, from, to);
}

}  // namespace capstan
