#include "cluster/lab/shapes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/config/presets.h"
#include "core/error.h"

namespace capstan {

int64_t head_size_for(int64_t width, int64_t wanted) {
  for (int64_t size = std::min(wanted, width); size >= 2; --size)
    if (width % size == 0 && size % 2 == 0) return size;
  return 1;
}

DecoderConfig shaped(const SweepSpec& spec, int64_t width, int64_t layers) {
  DecoderConfig model = spec.base.model;
  model.width = width, model.layers = layers;
  model.heads = width / head_size_for(width, spec.sizes.head_size);
  model.head_size = 0, model.kv_heads = 0, model.hidden = 0;
  return model;
}

namespace {

double counted(const SweepSpec& spec, const ParameterParts& parts) {
  return static_cast<double>(spec.count_n == SweepSpec::CountN::total ? parts.total() : parts.blocks);
}

}  // namespace

DecoderConfig shape_for(const SweepSpec& spec, double n, int64_t vocabulary, int64_t depth) {
  const int64_t head = spec.sizes.head_size;
  const double widest = 4 * std::cbrt(n * spec.sizes.aspect) + static_cast<double>(2 * head);
  DecoderConfig best;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t width = head; static_cast<double>(width) <= widest; width += head)
    for (int64_t layers = 1; layers <= 2 + static_cast<int64_t>(4.0 * static_cast<double>(width) / spec.sizes.aspect);
         ++layers) {
      if (depth > 0 && layers != 1) break;
      DecoderConfig model = shaped(spec, width, depth > 0 ? depth : layers);
      model.vocabulary = vocabulary;
      const double size = std::log(counted(spec, parameter_parts(model)) / n);
      const double flatness = std::log(static_cast<double>(width) / static_cast<double>(layers) / spec.sizes.aspect);
      const double cost = std::abs(size) + (depth > 0 ? 0 : 0.1 * std::abs(flatness));
      if (cost < least) least = cost, best = model;
    }
  return best;
}

SweepSize sized(const SweepSpec& spec, const std::string& label, DecoderConfig model, int64_t vocabulary) {
  SweepSize size;
  size.label = label;
  if (model.vocabulary == 0) model.vocabulary = vocabulary;
  size.model = model;
  size.parts = parameter_parts(model);
  size.cost = plan_cost(model);
  size.n = counted(spec, size.parts);
  size.flops_token = spec.count_flops == SweepSpec::CountFlops::half    ? size.cost.half
                     : spec.count_flops == SweepSpec::CountFlops::whole ? size.cost.whole
                                                                        : 6.0 * static_cast<double>(size.parts.total());
  return size;
}

std::vector<SweepSize> sweep_sizes(const SweepSpec& spec, int64_t vocabulary) {
  std::vector<SweepSize> sizes;
  for (const std::string& name : spec.sizes.presets) {
    sizes.push_back(sized(spec, name, preset_model(name), vocabulary));
    sizes.back().preset = name;
  }
  const auto add = [&](const DecoderConfig& model) {
    sizes.push_back(sized(spec, fmt::format("{}x{}", model.width, model.layers), model, vocabulary));
  };
  for (const std::string& shape : spec.sizes.shapes) {
    const size_t cross = shape.find('x');
    add(shaped(spec, std::stoll(shape.substr(0, cross)), std::stoll(shape.substr(cross + 1))));
  }
  for (const double target : spec.sizes.targets) add(shape_for(spec, target, vocabulary));
  std::stable_sort(sizes.begin(), sizes.end(), [](const SweepSize& a, const SweepSize& b) { return a.n < b.n; });
  const auto same = [](const SweepSize& a, const SweepSize& b) { return a.label == b.label; };
  sizes.erase(std::unique(sizes.begin(), sizes.end(), same), sizes.end());
  return sizes;
}

int64_t common_depth(const std::vector<SweepSize>& sizes) {
  for (const SweepSize& size : sizes)
    if (size.model.layers != sizes[0].model.layers) return 0;
  return sizes.size() > 1 ? sizes[0].model.layers : 0;
}

double expected_n(const SweepSpec& spec, double flops) {
  const SweepSpec::Budgets& b = spec.budgets;
  if (!(b.centre_flops > 0) || !(b.centre_n > 0)) return 0;
  return b.centre_n * std::pow(flops / b.centre_flops, b.centre_exponent);
}

std::vector<size_t> sizes_of_budget(const SweepSpec& spec, const std::vector<SweepSize>& sizes, double flops) {
  std::vector<size_t> order(sizes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const double centre = expected_n(spec, flops);
  const auto wanted = static_cast<size_t>(spec.budgets.sizes_each);
  if (wanted == 0 || wanted >= order.size() || !(centre > 0)) return order;
  const auto distance = [&](size_t i) { return std::abs(std::log(sizes[i].n / centre)); };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return distance(a) < distance(b); });
  order.resize(wanted);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace capstan
