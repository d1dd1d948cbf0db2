#pragma once
// The learning rate of each size: fixed, a power of N, or found by a small search. A search tries the candidates at a
// few sizes; the best rate of a size is the minimum of a parabola in ln(rate) through the best candidate and its
// neighbours, and a power law goes through the sizes. At the edge of the candidates there is no minimum: the edge is
// taken, and said.

#include "cluster/lab/record.h"
#include "cluster/lab/shapes.h"

namespace capstan {

class LearningRateSearch {
 public:
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

  /// Empty unless the rule is to search.
  const std::vector<Trial>& trials() const { return trials_; }
  Rate rate(double n) const;
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void find_best(const SweepSpec& spec, const std::vector<SweepSize>& sizes, const std::vector<RunRecord>& records);
  std::vector<Trial> trials_;
  std::vector<std::string> notes_;
  bool provisional_ = false;
  double value_ = 0, reference_n_ = 1, exponent_ = 0;
};

}  // namespace capstan
