#pragma once
// The learning rate of each size: fixed, a power of N, or found by a small search. A search tries the candidates at a
// few of the sizes that its budget is meant for; the best rate of a size is the minimum of a parabola in ln(rate)
// through the best trial and its neighbours, and a power law goes through the sizes. Where the best trial is the least
// or the greatest, nothing is known yet: the next rate beyond is tried, and the next, until the loss rises again. What
// is tried is a pure function of the file and the records, so that a restart goes on where the search stood.

#include <optional>

#include "cluster/lab/record.h"
#include "cluster/lab/shapes.h"

namespace capstan {

class LearningRateSearch {
 public:
  static constexpr int kMostBeyond = 6;  ///< trials of one size beyond the file's candidates

  struct Trial {
    size_t size = 0;
    double rate = 0;
    std::string id;
  };
  struct Rate {
    double value = 0;
    bool provisional = false;  ///< trials are missing: the file's own rule for the time being
  };

  LearningRateSearch() = default;
  LearningRateSearch(const SweepSpec& spec, const std::vector<SweepSize>& sizes, const std::vector<RunRecord>& records);

  /// Empty unless the rule is to search. Trials beyond the candidates appear when all before them are recorded.
  const std::vector<Trial>& trials() const { return trials_; }
  Rate rate(double n) const;
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Best {
    double rate = 0;
    bool edge = false;
  };
  std::optional<Best> search_size(const SweepSize& size, size_t index, std::vector<double> candidates,
                                  const std::vector<RunRecord>& records);
  void follow(const std::vector<double>& n, const std::vector<double>& rates);

  std::vector<Trial> trials_;
  std::vector<std::string> notes_;
  bool provisional_ = false;
  double value_ = 0, reference_n_ = 1, exponent_ = 0;
};

}  // namespace capstan
