// label: cpu
// The reference kernels in f64 against numbers that PyTorch computed (tests/bench/kernel_torch.py).
#include "tests/kernels/golden/kernel_golden.h"

#include "tests/kernels/kernel_case_run.h"

namespace capstan::kernels::testing {
namespace {

const Backend kReference = reference_backend();

std::vector<int32_t> integers(const std::vector<double>& values) { return {values.begin(), values.end()}; }

void expect_golden(const std::vector<double>& got, const std::vector<double>& want, const char* what) {
  expect_close(got, want, 1e-12, 0.0, what);
}

TEST(Golden, LayerNorm) {
  const int64_t rows = 5, width = 24;
  std::vector<double> y(120), mean(5), rstd(5), dx(120), dw(24), db(24);
  kReference.norm({.x = golden::layer_norm_x.data(),
                   .weight = golden::layer_norm_w.data(),
                   .bias = golden::layer_norm_b.data(),
                   .y = y.data(),
                   .mean = mean.data(),
                   .rstd = rstd.data(),
                   .rows = rows,
                   .width = width,
                   .epsilon = 1e-5,
                   .dtype = DType::f64});
  kReference.norm_backward({.s = golden::layer_norm_x.data(),
                            .weight = golden::layer_norm_w.data(),
                            .mean = mean.data(),
                            .rstd = rstd.data(),
                            .dy = golden::layer_norm_dy.data(),
                            .ds = dx.data(),
                            .dweight = dw.data(),
                            .dbias = db.data(),
                            .rows = rows,
                            .width = width,
                            .dtype = DType::f64});
  expect_golden(y, golden::layer_norm_y, "y");
  expect_golden(dx, golden::layer_norm_dx, "dx");
  expect_golden(dw, golden::layer_norm_dw, "dw");
  expect_golden(db, golden::layer_norm_db, "db");
}

TEST(Golden, Activations) {
  struct Row {
    ActivationKind kind;
    const std::vector<double>& y;
    const std::vector<double>& dx;
  };
  const Row rows[] = {{ActivationKind::gelu, golden::gelu_y, golden::gelu_dx},
                      {ActivationKind::gelu_tanh, golden::gelu_tanh_y, golden::gelu_tanh_dx},
                      {ActivationKind::silu, golden::silu_y, golden::silu_dx},
                      {ActivationKind::relu, golden::relu_y, golden::relu_dx},
                      {ActivationKind::squared_relu, golden::squared_relu_y, golden::squared_relu_dx}};
  for (const Row& row : rows) {
    SCOPED_TRACE(static_cast<int>(row.kind));
    std::vector<double> y(40), dx(40);
    kReference.activation({row.kind, golden::activation_x.data(), nullptr, y.data(), 40, DType::f64});
    kReference.activation_backward({row.kind, golden::activation_x.data(), nullptr, golden::activation_dy.data(),
                                    dx.data(), nullptr, 40, DType::f64});
    expect_golden(y, row.y, "y");
    expect_golden(dx, row.dx, "dx");
  }
}

TEST(Golden, CrossEntropy) {
  const std::vector<int32_t> targets = integers(golden::cross_entropy_targets);
  const std::vector<float> weights(golden::cross_entropy_weights.begin(), golden::cross_entropy_weights.end());
  std::vector<double> logsumexp(7), nll(7), loss(1), logits = golden::cross_entropy_logits;
  kReference.cross_entropy({logits.data(), targets.data(), weights.data(), logsumexp.data(), nll.data(), loss.data(),
                            false, 7, 19, 19, DType::f64});
  double total = 0;
  for (const double w : golden::cross_entropy_weights) total += w;
  const double scale = 1.0 / total;
  kReference.cross_entropy_backward(
      {logits.data(), targets.data(), weights.data(), logsumexp.data(), &scale, 7, 19, 19, DType::f64});
  nll[3] = golden::cross_entropy_nll[3];  // weight 0: unspecified here
  expect_golden(nll, golden::cross_entropy_nll, "nll");
  expect_golden(loss, golden::cross_entropy_loss, "loss");
  expect_golden(logits, golden::cross_entropy_dlogits, "dlogits");
}

TEST(Golden, FiveStepsOfAdamW) {
  const std::vector<double>* gradients[] = {&golden::adamw_gradient0, &golden::adamw_gradient1,
                                            &golden::adamw_gradient2, &golden::adamw_gradient3,
                                            &golden::adamw_gradient4};
  const std::vector<double>* parameters[] = {&golden::adamw_parameter0, &golden::adamw_parameter1,
                                             &golden::adamw_parameter2, &golden::adamw_parameter3,
                                             &golden::adamw_parameter4};
  for (const DType dtype : {DType::f64, DType::f32}) {
    SCOPED_TRACE(name_of(dtype));
    GuardedBuffer p(240), m(240), v(240), g(240);
    for (size_t i = 0; i < 30; ++i) {
      put(p.data(), i, dtype, golden::adamw_start[i]);
      put(m.data(), i, dtype, 0);
      put(v.data(), i, dtype, 0);
    }
    for (int step = 0; step < 5; ++step) {
      const StepScalars scalars{.learning_rate = 0.01,
                                .correction1 = 1 - std::pow(0.9, step + 1),
                                .correction2 = 1 - std::pow(0.95, step + 1)};
      for (size_t i = 0; i < 30; ++i) put(g.data(), i, dtype, (*gradients[step])[i]);
      kReference.adamw({.parameter = p.data(),
                        .gradient = g.data(),
                        .moment1 = m.data(),
                        .moment2 = v.data(),
                        .scalars = &scalars,
                        .weight_decay = 0.1,
                        .count = 30,
                        .dtype = dtype});
      std::vector<double> got;
      for (size_t i = 0; i < 30; ++i) got.push_back(fetch(p.data(), i, dtype));
      expect_close(got, *parameters[step], dtype == DType::f64 ? 1e-12 : 1e-6, 0.0, "parameter");
    }
  }
}

TEST(Golden, CausalAttentionWithGroupedHeads) {
  const AttentionShape shape{.batch = 1,
                             .queries = 9,
                             .keys = 9,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_size = 6,
                             .q_stride = 24,
                             .kv_stride = 12,
                             .o_stride = 24,
                             .scale = 1 / std::sqrt(6.0),
                             .dtype = DType::f64};
  const void *q = golden::attention_q.data(), *k = golden::attention_k.data(), *v = golden::attention_v.data();
  std::vector<double> o(216), logsumexp(36), dq(216), dk(108), dv(108);
  std::vector<uint8_t> scratch(
      std::max(kReference.attention_scratch(shape), kReference.attention_backward_scratch(shape)));
  kReference.attention({shape, {}, {}, q, k, v, o.data(), logsumexp.data(), scratch.data()});
  kReference.attention_backward({shape,
                                 {},
                                 {},
                                 q,
                                 k,
                                 v,
                                 o.data(),
                                 logsumexp.data(),
                                 golden::attention_d_o.data(),
                                 dq.data(),
                                 dk.data(),
                                 dv.data(),
                                 scratch.data()});
  expect_golden(o, golden::attention_o, "o");
  expect_golden(logsumexp, golden::attention_logsumexp, "logsumexp");
  expect_golden(dq, golden::attention_dq, "dq");
  expect_golden(dk, golden::attention_dk, "dk");
  expect_golden(dv, golden::attention_dv, "dv");
}

void multiply(const MatmulShape& shape, const MatmulArgs& args) {
  const auto prepared = kReference.prepare_matmul(shape);
  std::vector<uint8_t> scratch(prepared->scratch_bytes());
  prepared->run(args, scratch.data());
}

MatmulShape product(int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b, bool bias = false) {
  return {m, n, k, transpose_a, transpose_b, DType::f64, DType::f64, DType::f64, bias};
}

TEST(Golden, LinearLayerAndItsGradients) {
  const double *x = golden::linear_x.data(), *w = golden::linear_w.data(), *dy = golden::linear_dy.data();
  std::vector<double> y(48), dx(66), dw(88), db(8);
  multiply(product(6, 8, 11, false, true, true), {x, w, golden::linear_b.data(), y.data()});
  multiply(product(6, 11, 8, false, false), {dy, w, nullptr, dx.data()});
  multiply(product(8, 11, 6, true, false), {dy, x, nullptr, dw.data()});
  kReference.bias_gradient({dy, db.data(), 6, 8, DType::f64});
  expect_golden(y, golden::linear_y, "y");
  expect_golden(dx, golden::linear_dx, "dx");
  expect_golden(dw, golden::linear_dw, "dw");
  expect_golden(db, golden::linear_db, "db");
}

TEST(Golden, Embedding) {
  const std::vector<int32_t> ids = integers(golden::embedding_ids);
  std::vector<double> y(20), dtable(28);
  kReference.embedding({ids.data(), golden::embedding_table.data(), nullptr, y.data(), 5, 7, 4, DType::f64});
  kReference.embedding_backward(
      {ids.data(), golden::embedding_dy.data(), dtable.data(), false, 5, 7, 4, DType::f64, nullptr});
  expect_golden(y, golden::embedding_y, "y");
  expect_golden(dtable, golden::embedding_dtable, "dtable");
}

}  // namespace
}  // namespace capstan::kernels::testing
