#pragma once
// RunConfig: everything a run can be told, as plain structs. The defaults stand here, once; what a key is called, its
// unit, range and sentence stand in keys.cpp, once. A RunConfig that came out of config_reader.h has passed every check
// that needs no world size; call check_for_world (config_checks.h) when the number of ranks is known, which also fills
// layout.dp. Nothing but the reader and check_for_world writes to it after that.

#include <cstdint>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "core/models/decoder_config.h"
#include "kernels/types.h"

namespace capstan {

struct DataConfig {
  enum class Packing { stream, best_fit };
  enum class Objective { causal, prefix, masked, span_corruption };
  enum class MaskUnits { token, word, span };
  std::vector<std::string> corpora;
  std::vector<double> weights;     ///< of the corpora in the blend; empty: in proportion to their tokens
  std::vector<double> epochs;      ///< of each corpus, or one number; instead of weights
  std::vector<double> max_epochs;  ///< of each corpus, or one number; empty or 0: no cap
  Packing packing = Packing::stream;
  int64_t block = 0;  ///< tokens; 0: a sample
  bool document_mask = true;
  Objective objective = Objective::causal;
  double mask_rate = 0.15;
  MaskUnits mask_units = MaskUnits::token;
  bool mask_static = false;
  double noise_density = 0.15;
  double noise_span = 3.0;
};

struct RecomputeConfig {
  enum class Kind { none, selective, full, layers };
  Kind kind = Kind::none;
  int64_t layers = 0;  ///< of the first `layers` blocks; only for Kind::layers
  bool operator==(const RecomputeConfig&) const = default;
};

struct LayoutConfig {
  enum class Overlap { automatic, on, off };
  int dp = 0;  ///< 0: what the other axes leave
  int pp = 1;
  int cp = 1;
  int tp = 1;
  int ep = 1;  ///< reserved
  int zero = 0;
  Overlap overlap = Overlap::automatic;  ///< automatic: where data ranks are on several hosts
  int zero_ranks = 0;                    ///< of dp, among which state is sharded; 0: all
  bool sequence_parallel = false;
  std::string schedule = "1f1b";  ///< a ScheduleKind by name, or the path of a table
  int interleave = 1;
  RecomputeConfig recompute;

  /// Data ranks among which state is sharded: axis dp of the mesh. The rest of layout.dp is axis rep.
  int shard_group() const { return zero_ranks > 0 ? zero_ranks : dp; }
};

struct OptimizerConfig {
  double learning_rate = 3e-4;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double clip = 1.0;  ///< 0: no clipping
};

struct ScheduleConfig {
  enum class Kind { cosine, linear, constant, inverse_sqrt, wsd };
  Kind kind = Kind::cosine;
  int64_t warmup_steps = 0;
  double minimum_ratio = 0.1;
  double decay_fraction = 0.2;  ///< wsd only
};

struct TrainConfig {
  static constexpr int64_t kStepsAheadAutomatic = -1;
  enum class Precision { fp64, fp32, bf16, fp16 };
  enum class Device { automatic, cpu, cuda, reference };
  int64_t steps = 1000;
  int64_t global_batch = 32;
  int64_t microbatch = 0;  ///< 0: global_batch / dp, filled in by check_for_world
  Precision precision = Precision::fp32;
  double initial_loss_scale = 65536, minimum_loss_scale = 1;  ///< fp16 only
  int64_t loss_scale_window = 2000;
  Reduction reduction = Reduction::fast;
  Device device = Device::automatic;
  bool tf32 = false;    ///< cuda, fp32
  bool capture = true;  ///< cuda
  int64_t steps_ahead = kStepsAheadAutomatic;
  int64_t seed = 1;
  double dropout = 0.0;  ///< the reader copies it to model.dropout
  int64_t evaluate_every = 0;
  int64_t evaluate_samples = 256;
  int64_t maximum_bad_steps = 10;
  int threads = 0;
  double hang_seconds = 1800;  ///< 0: wait for ever
  double start_seconds = 300;  ///< for all ranks to come; 0: wait for ever
  double host_memory_gib = 0;  ///< 0: what a host has left
  int64_t log_every = 1;

  DType dtype() const {
    constexpr DType types[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
    return types[static_cast<int>(precision)];
  }
};

struct CheckpointConfig {
  int64_t every = 1000;
  int64_t keep = 2;
};

struct RunSection {
  std::string dir;
  std::string records;  ///< table to which the run adds itself at its end; empty: in dir; "none": not at all
};

struct RunConfig {
  std::string model_preset;
  DecoderConfig model;
  DataConfig data;
  LayoutConfig layout;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;
  CheckpointConfig checkpoint;
  RunSection run;

  /// Microbatches that one rank runs in a step; 0 while dp or microbatch is not yet known.
  int64_t accumulation() const {
    const int64_t per_pass = train.microbatch * layout.dp;
    return per_pass > 0 ? train.global_batch / per_pass : 0;
  }
};

}  // namespace capstan
