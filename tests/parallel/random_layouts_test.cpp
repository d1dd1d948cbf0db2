// label: ranks
// Models with switches drawn at random under layouts drawn at random are their unsharded twins: what no list of presets
// and layouts thinks of. Draw N is the same on every machine. CAPSTAN_DRAWS=2000 draws more than the suite does,
// CAPSTAN_FIRST_DRAW=N begins at another.
#include <cstdlib>
#include <random>

#include "core/config/config_checks.h"
#include "core/error.h"
#include "tests/parallel/layout_twin.h"

namespace capstan::testing {
namespace {

constexpr int kShares = 8, kDraws = 96, kMostRanks = 8;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : otherwise;
}

class Draw {
 public:
  explicit Draw(int number) : random_(static_cast<unsigned>(number)) {}

  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }
  bool one_in(unsigned n) { return random_() % n == 0; }

 private:
  std::mt19937 random_;
};

DecoderConfig random_model(Draw& draw) {
  DecoderConfig model = tiny_gpt();
  model.layers = draw.one_of({2, 3, 4, 5});
  model.heads = draw.one_of({2, 4, 4, 6});
  model.width = model.heads * draw.one_of({4, 8});
  model.kv_heads = draw.one_of<int64_t>({0, 0, 1, 2});
  model.hidden = draw.one_of({0, 24, 40});
  model.positions = draw.one_of({Positions::learned, Positions::rotary, Positions::rotary, Positions::alibi,
                                 Positions::sinusoidal, Positions::none, Positions::t5, Positions::xl});
  if (draw.one_in(4)) model.rotary_fraction = 0.5;
  model.norm = draw.one_of({NormKind::layer, NormKind::rms});
  model.norm_placement = draw.one_of({NormPlacement::pre, NormPlacement::pre, NormPlacement::post,
                                      NormPlacement::parallel, NormPlacement::parallel_two, NormPlacement::deep});
  model.activation = draw.one_of({Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::squared_relu,
                                  Activation::swiglu, Activation::geglu});
  model.bias = draw.one_in(2), model.tied = draw.one_in(2), model.head_bias = draw.one_in(3);
  if (draw.one_in(3)) model.window = draw.one_of({3, 5, 7});
  if (model.window > 0 && draw.one_in(2)) model.global_every = 2, model.global_first = draw.one_of({0, 1});
  if (draw.one_in(4)) model.embedding_width = draw.one_of({8, 12});
  model.embedding_norm = draw.one_in(4), model.qk_norm = draw.one_in(4), model.query_layer = draw.one_in(6);
  model.vocabulary = draw.one_of({29, 31, 37});
  if (draw.one_in(3)) model.dropout = 0.1;
  return model;
}

Layout random_layout(Draw& draw, const DecoderConfig& model) {
  Layout layout;
  do {
    layout.tp = draw.one_of({1, 1, 2, 2, 4}), layout.pp = draw.one_of({1, 1, 2, 2, 3, 4});
    layout.cp = draw.one_of({1, 1, 2, 3}), layout.dp = draw.one_of({1, 1, 2, 2, 4});
  } while (layout.ranks() < 2 || layout.ranks() > kMostRanks || model.heads % layout.tp != 0);
  layout.sequence_parallel = layout.tp > 1 && draw.one_in(2);
  layout.recompute = draw.one_of({Policy::none, Policy::selective, Policy::full});
  if (layout.recompute == Policy::full && draw.one_in(2)) layout.recompute_layers = draw.one_of({1, 2});
  if (layout.dp > 1) layout.zero = draw.one_of({0, 1, 2, 2, 3, 3});
  if (layout.dp == 4 && layout.zero > 0 && draw.one_in(2)) layout.zero_ranks = 2;
  if (layout.pp > 1)
    layout.schedule = draw.one_of({ScheduleKind::gpipe, ScheduleKind::one_forward_one_backward,
                                   ScheduleKind::interleaved, ScheduleKind::zero_bubble});
  if (layout.schedule == ScheduleKind::interleaved) layout.interleave = draw.one_of({1, 2});
  if (layout.dp > 1) layout.beside = draw.one_of({Beside::no, Beside::thread, Beside::lazy});
  return layout;
}

struct Drawn {
  DecoderConfig model;
  Layout layout;
  int64_t microbatches = 1;
  bool documents = false, ordered = false;
};
constexpr int64_t kBatch = 8;

/// What `capstan train` would refuse is drawn anew.
bool is_refused(const Drawn& drawn) {
  RunConfig config;
  config.model = drawn.model;
  const Layout& layout = drawn.layout;
  config.layout.tp = layout.tp, config.layout.pp = layout.pp, config.layout.cp = layout.cp,
  config.layout.dp = layout.dp;
  config.layout.zero = layout.zero, config.layout.zero_ranks = layout.zero_ranks;
  config.layout.sequence_parallel = layout.sequence_parallel, config.layout.interleave = layout.interleave;
  constexpr const char* schedules[] = {"gpipe", "1f1b", "interleaved", "zero-bubble"};
  config.layout.schedule = schedules[static_cast<int>(layout.schedule)];
  if (drawn.ordered) config.train.reduction = Reduction::ordered;
  config.train.global_batch = kBatch;
  config.train.microbatch = kBatch / (layout.dp * drawn.microbatches);
  if (!config_conflicts(config).empty()) return true;
  try {
    check_for_world(config, layout.ranks());
  } catch (const Error&) {
    return true;
  }
  return false;
}

Drawn random_drawn(int number) {
  Draw draw(number);
  for (;;) {
    Drawn drawn;
    drawn.model = random_model(draw), drawn.layout = random_layout(draw, drawn.model);
    drawn.microbatches = draw.one_of({1, 2, 4});
    drawn.documents = draw.one_in(2), drawn.ordered = draw.one_in(4);
    if (kBatch % (drawn.layout.dp * drawn.microbatches) == 0 && !is_refused(drawn)) return drawn;
  }
}

class RandomLayouts : public ::testing::TestWithParam<int> {};

TEST_P(RandomLayouts, AreTheirTwins) {
  const int first = from_environment("CAPSTAN_FIRST_DRAW", 0);
  const kernels::Backend backend = kernels::reference_backend();
  for (int number = first + GetParam(); number < first + from_environment("CAPSTAN_DRAWS", kDraws); number += kShares) {
    const Drawn drawn = random_drawn(number);
    SCOPED_TRACE(fmt::format("draw {}: {}, {} microbatches", number, name_of(drawn.layout), drawn.microbatches));
    TrainingSpec spec = tiny_spec(drawn.model);
    spec.separate_documents = drawn.documents;
    const TwinOutcome one = train_twin(spec, {}, backend, 1, kBatch);
    if (drawn.ordered) spec.plan.reduction = Reduction::ordered;
    expect_twins(one, train_twin(spec, drawn.layout, backend, drawn.microbatches, kBatch), 1e-12, 1e-9);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Draws, RandomLayouts, ::testing::Range(0, kShares));

}  // namespace
}  // namespace capstan::testing
