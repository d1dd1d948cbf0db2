#pragma once
// Learning rate as a pure function of the step, so that a resumed run needs to remember nothing.
//   warm-up: peak * (step + 1) / warmup_steps while step < warmup_steps; then, with t in [0, 1] over what is left,
//   cosine        minimum + (peak - minimum) (1 + cos(pi t)) / 2
//   linear        peak + (minimum - peak) t
//   constant      peak
//   inverse_sqrt  peak * sqrt(max(warmup, 1) / (step + 1)), not below the minimum
//   wsd           peak until the last decay_fraction of the run, then minimum + (peak - minimum) (1 - sqrt(u)) over it
//                 (Hagele et al., 2024: "Scaling laws and compute-optimal training beyond fixed training durations")

#include "core/config/run_config.h"

namespace capstan {

/// step counts from 0; total is train.steps.
double learning_rate_at(const ScheduleConfig& schedule, double peak, int64_t step, int64_t total);

}  // namespace capstan
