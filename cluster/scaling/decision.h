#pragma once
// What a fitted law advises for a budget of FLOP: how large a model, how many tokens, which loss. Closed form where the
// cost is 6 N D and nothing limits the data; otherwise the best N is searched for, with the tokens that the budget
// still pays for at that N. Costs other than 6 N D are learnt from the table's own FLOP column.

#include "cluster/scaling/model.h"

namespace capstan::scaling {

/// FLOP to train on one token, as a function of N: 6 N times a ratio that is interpolated between the table's sizes and
/// constant outside them. Without a measured FLOP column, or where it says 6 N D, the ratio is 1.
class TokenCost {
 public:
  TokenCost() = default;
  explicit TokenCost(const Measurements& table);
  bool is_6nd() const { return ratios_.empty(); }
  double per_token(double n) const;

 private:
  struct Knot {
    double ln_n, ln_ratio;
  };
  std::vector<Knot> ratios_;
};

struct Limits {
  double unique_tokens = 0;     ///< 0: as many as wanted
  double repetition = 15.3878;  ///< Rd of the repetition form, for laws that were not fitted on repeated data
  double inference_tokens = 0;  ///< tokens to be served later; a third of a training token's FLOP each
  bool any() const { return unique_tokens > 0 || inference_tokens > 0; }
};

struct Decision {
  double n = 0, d = 0, loss = 0;
};

/// Whether the form says how to split a budget (it knows both N and D).
bool can_allocate(Form form);
/// Whether the form predicts a loss from a budget alone.
bool can_predict_from_budget(Form form);

/// For the coordinates theta of a fitted law. The optimum is inside the range searched: from one parameter to the size
/// at which the budget pays for one token.
Decision decide(Form form, const Model& model, const Vector& theta, double budget, const TokenCost& cost,
                const Limits& limits);

/// Whether decide() is the closed form here.
bool is_closed_form(Form form, const TokenCost& cost, const Limits& limits);

/// The law's loss for n parameters and d tokens (more than limits.unique_tokens: repeated).
double loss_at(Form form, const Model& model, const Vector& theta, double n, double d, double flops,
               const Limits& limits);

}  // namespace capstan::scaling
