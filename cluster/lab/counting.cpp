#include "cluster/lab/counting.h"

#include <algorithm>

#include "core/config/parameter_count.h"
#include "core/models/decoder.h"
#include "core/ops/attention_base.h"
#include "core/training_program.h"

namespace capstan {

ParameterParts parameter_parts(const DecoderConfig& model) {
  ParameterParts parts;
  parts.embedding = model.vocabulary * model.embedded();
  parts.positions = model.positions == Positions::learned ? (model.context + model.position_offset) * model.width : 0;
  parts.head = model.tied ? 0 : model.vocabulary * model.embedded();
  parts.blocks = parameter_count(model) - parts.embedding - parts.positions - parts.head;
  return parts;
}

namespace {

struct NodeCost {
  double half = 0, whole = 0;
};

/// `products` T x T products of width C, of which the plan's own cost says how many pairs a causal mask leaves.
NodeCost attention_cost(const Plan& plan, const Node& node, double visible, double products, double planned) {
  const Shape q = local_shape(plan.tape.at(node.inputs[0]).spec, plan.tape.mesh);
  const Shape k = local_shape(plan.tape.at(node.inputs[1]).spec, plan.tape.mesh);
  const double pairs = static_cast<double>(q[0] * q[1]) * static_cast<double>(k[1]);
  return {visible * products / planned, products * 2.0 * pairs * static_cast<double>(q[2])};
}

NodeCost node_cost(const Plan& plan, size_t index) {
  const Node& node = plan.tape.nodes[index];
  const double flops = plan.cost(index).flops;
  // A relative term is a product more of the scores.
  const double scores = node.inputs.size() > kRelativeK && node.inputs[kRelativeK] != kNoTensor ? 2 : 1;
  if (node.op->name() == "attention") return attention_cost(plan, node, flops, 1 + scores, 1 + scores);
  // The products of the adjoint, and the scores once more, which is recomputation.
  if (node.op->name() == "attention gradient") return attention_cost(plan, node, flops, 2 + 2 * scores, 2 + 3 * scores);
  return {flops, flops};
}

}  // namespace

PlanCost plan_cost(const Plan& plan, double tokens) {
  PlanCost sum;
  for (size_t i = 0; i < plan.tape.nodes.size(); ++i) {
    const Node& node = plan.tape.nodes[i];
    if (node.part != Part::forward && node.part != Part::backward && node.part != Part::weights) continue;
    sum.executed += plan.cost(i).flops / tokens;
    if (node.recomputed) continue;
    const NodeCost cost = node_cost(plan, i);
    sum.half += cost.half / tokens;
    sum.whole += cost.whole / tokens;
  }
  return sum;
}

PlanCost plan_cost(const DecoderConfig& model) {
  const kernels::Backend backend = kernels::reference_backend();
  TrainingSpec spec;
  spec.model = model;
  const TrainingProgram training(Mesh(), Device{&backend, {}}, spec);
  return plan_cost(training.program().plan("train"), static_cast<double>(model.context));
}

namespace {

/// Weights that a token is multiplied with, in the blocks.
double block_weights(const DecoderConfig& m) {
  const double width = static_cast<double>(m.width), size = static_cast<double>(m.head());
  const double queries = static_cast<double>(m.heads) * size, keys = static_cast<double>(m.kv()) * size;
  const double mlp = (m.gated() ? 3.0 : 2.0) * width * static_cast<double>(m.mlp());
  return static_cast<double>(m.layers) * (2 * width * queries + 2 * width * keys + mlp);
}

double attention_width(const DecoderConfig& m) {
  return static_cast<double>(m.layers) * static_cast<double>(m.heads * m.head());
}

/// Places that a token attends to, on average over the layers, as the plan counts them.
double visible_places(const DecoderConfig& m) {
  const double context = static_cast<double>(m.context);
  double sum = 0;
  for (int64_t i = 0; i < m.layers; ++i) {
    const double window = static_cast<double>(m.window_of(i));
    sum += window > 0 ? std::min(context, window) : (context + 1) / 2;
  }
  return sum / static_cast<double>(m.layers);
}

}  // namespace

ClosedCost closed_cost(const DecoderConfig& m) {
  const double embedded = static_cast<double>(m.embedded()), width = static_cast<double>(m.width);
  const double head = static_cast<double>(padded_vocabulary(m.vocabulary)) * embedded;
  const double projections = m.embedding_width > 0 ? 2 * embedded * width : 0;
  double products = 6 * (block_weights(m) + head + projections), attention = 12 * attention_width(m);
  if (m.positions == Positions::xl)  // relative keys are made of waves, which have no gradient; 3 products T x T more
    products += 4 * width * attention_width(m), attention *= 1.5;
  return {products + attention * visible_places(m), products + attention * static_cast<double>(m.context)};
}

double hoffmann_cost(const DecoderConfig& m) {
  const double context = static_cast<double>(m.context), heads = static_cast<double>(m.layers * m.heads);
  const double ends = 2 * 2 * static_cast<double>(m.vocabulary) * static_cast<double>(m.width);
  const double attention = 4 * context * attention_width(m) + 3 * heads * context;
  return 3 * (ends + 2 * block_weights(m) + attention);
}

double deepseek_cost(const DecoderConfig& m) {
  return 6 * block_weights(m) + 12 * attention_width(m) * static_cast<double>(m.context);
}

}  // namespace capstan
