#pragma once
// StepTimer: a StepObserver that adds up seconds by part and op name.

#include <chrono>
#include <map>
#include <string>

#include "core/program.h"

namespace capstan {

class StepTimer : public StepObserver {
 public:
  struct Sum {
    int count = 0;
    double seconds = 0.0, flops = 0.0, bytes = 0.0;
  };
  void before(const Plan& plan, size_t node) override;
  void waiting(const Plan& plan, size_t node) override { before(plan, node); }
  void waited(const Plan& plan, size_t node) override;
  void after(const Plan& plan, size_t node) override;
  /// Rows by descending time: part, op, share, ms a step, GFLOP/s, GB/s.
  std::string table(int steps) const;

 private:
  std::chrono::steady_clock::time_point start_;
  std::map<std::pair<Part, std::string>, Sum> sums_;
};

}  // namespace capstan
