#pragma once
// What was measured: one row per (run, point of the run). It is plain columns on purpose: a CSV file fills it today,
// a store of records may tomorrow, and the fitting knows neither. All columns have the same length; `unique` and `seed`
// are empty where nothing is known. Make one through checked(): everything after it relies on what it has checked.

#include <string>
#include <vector>

namespace capstan::scaling {

struct Measurements {
  std::vector<double> parameters;  ///< N, in whichever convention the table uses; the fit speaks the same
  std::vector<double> tokens;      ///< D consumed, repetitions counted
  std::vector<double> loss;        ///< nats or bits per token or byte: the fit speaks the same
  std::vector<double> flops;       ///< C; 6 N D where the table has none
  std::vector<double> weight;      ///< relative, 1 where the table has none
  std::vector<double> unique;      ///< distinct tokens, or empty
  std::vector<int> run;            ///< rows of one run are not independent: the bootstrap draws whole runs
  std::vector<int> seed;           ///< or empty
  bool has_parameters = true, has_tokens = true, flops_measured = false;

  size_t size() const { return loss.size(); }
  int runs() const;
};

/// Fills what is missing (flops from 6 N D, tokens from flops / 6 N, weights, runs) and throws Error where a number is
/// not a finite positive one or columns differ in length. `row_names` (may be empty) says where each row came from.
Measurements checked(Measurements raw, const std::vector<std::string>& row_names = {});

/// The rows whose index is listed, in that order.
Measurements rows_of(const Measurements& all, const std::vector<size_t>& rows);

/// Without the `count` rows of largest loss (ties: the later row goes first).
Measurements without_largest_losses(const Measurements& all, size_t count);

/// The rows sorted into groups of nearly equal `key`: a group ends where the next key is more than `factor` times its
/// group's first. Groups ascend.
std::vector<std::vector<size_t>> groups_of(const std::vector<double>& key, double factor);

size_t distinct(const std::vector<double>& values);

/// The noise of a measurement, from cells (equal N and D) that were measured more than once: the standard deviation of
/// ln(loss), constant or a power of the loss where there are enough cells to tell.
struct Noise {
  size_t cells = 0, degrees = 0;
  double log_sd = 0;      ///< pooled
  double loss_power = 0;  ///< sd grows as loss^power around its pooled value; 0 where cells are few
  double centre = 0;      ///< mean of ln(loss) over the cells
  double at(double log_loss) const;
};
Noise replicate_noise(const Measurements& all);

/// Multiplies the weights by 1/sigma^2 and brings their mean to 1. Throws when no cell was measured twice.
Measurements weighted_by(const Noise& noise, Measurements all);

}  // namespace capstan::scaling
