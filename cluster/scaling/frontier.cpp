#include "cluster/scaling/frontier.h"

#include <cmath>

#include "core/error.h"

namespace capstan::scaling {

double PowerLaw::at(double x) const { return std::exp(ln_coefficient + exponent * std::log(x)); }

PowerLaw power_law_through(const std::vector<double>& x, const std::vector<double>& y) {
  const double count = static_cast<double>(x.size());
  double mx = 0, my = 0, xx = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    mx += std::log(x[i]) / count;
    my += std::log(y[i]) / count;
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const double u = std::log(x[i]) - mx;
    xx += u * u;
    xy += u * (std::log(y[i]) - my);
  }
  PowerLaw law;
  law.exponent = xx > 0 ? xy / xx : 0;
  law.ln_coefficient = my - law.exponent * mx;
  return law;
}

}  // namespace capstan::scaling
