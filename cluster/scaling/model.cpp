#include "cluster/scaling/model.h"

#include <cmath>

#include "cluster/scaling/power_sum.h"
#include "cluster/scaling/repetition.h"
#include "core/error.h"

namespace capstan::scaling {

const std::vector<FormName>& form_names() {
  static const std::vector<FormName> names = {
      {Form::chinchilla, "chinchilla", "L = E + A/N^alpha + B/D^beta"},
      {Form::kaplan_n, "kaplan-n", "L = (Nc/N)^alpha"},
      {Form::kaplan_d, "kaplan-d", "L = (Dc/D)^alpha"},
      {Form::kaplan_nd, "kaplan-nd", "L = ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D"},
      {Form::kaplan_c, "kaplan-c", "L = (Cc/C)^alpha"},
      {Form::gadre, "gadre", "L = E + (a M^eta + b M^-eta) C^-eta, M = D/N"},
      {Form::repetition, "repetition", "L = E + A/N'^alpha + B/D'^beta, N' and D' discounted for repetition"},
      {Form::isoflop, "isoflop", "a parabola of L in ln N for every budget; N* = k C^a through their minima"},
      {Form::envelope, "envelope", "the best run at every C; N* = k C^a through them"},
  };
  return names;
}

std::string name_of(Form form) {
  for (const FormName& entry : form_names())
    if (entry.form == form) return entry.name;
  return "unknown";
}

std::vector<Place> places_of(const Measurements& m) {
  std::vector<Place> places(m.size());
  for (size_t i = 0; i < m.size(); ++i)
    places[i] = {std::log(m.parameters[i]), std::log(m.tokens[i]), std::log(m.flops[i]),
                 m.unique.empty() ? std::log(m.tokens[i]) : std::log(m.unique[i])};
  return places;
}

std::vector<int> Model::free() const {
  std::vector<int> out;
  for (int i = 0; i < size(); ++i)
    if (!is_fixed(i)) out.push_back(i);
  return out;
}

std::unique_ptr<const Model> make_model(Form form, const Measurements& centre, const FormOptions& options) {
  if (options.tie_exponents && form != Form::chinchilla)
    throw Error::make(ExitCode::usage, "only form chinchilla has alpha and beta to tie, not form {}", name_of(form));
  if (form == Form::isoflop || form == Form::envelope)
    throw Error::make(ExitCode::internal, "form {} has no closed law to minimise", name_of(form));
  if (form == Form::repetition) return std::make_unique<Repetition>(centre, options);
  return std::make_unique<PowerSum>(form, centre, options);
}

}  // namespace capstan::scaling
