// plan_blend: what the user asked for, as whole-number shares.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/corpus/blend.h"

namespace capstan {
namespace {

constexpr double kScale = 1099511627776.0;  // 2^40: shares that follow from real numbers are multiples of 2^-40

/// `list` for each source: one number stands for all where that makes sense.
std::vector<double> for_each(const std::vector<double>& list, size_t sources, const char* key, bool one_for_all) {
  if (one_for_all && list.size() == 1) return std::vector<double>(sources, list[0]);
  if (list.size() != sources)
    throw Error::make(ExitCode::config, "{}: wanted {}{} numbers, one for each of data.corpora, got {}", key,
                      one_for_all ? "one number or " : "", sources, list.size());
  for (const double x : list)
    if (!(x >= 0 && std::isfinite(x)))
      throw Error::make(ExitCode::config, "{}: wanted numbers of at least 0, got {}", key, x);
  return list;
}

/// What each source would get without caps, as real numbers that add up to 1.
std::vector<double> wished(const BlendRequest& request, const std::vector<BlendSource>& sources) {
  std::vector<double> wish;
  if (!request.weights.empty()) wish = for_each(request.weights, sources.size(), "data.weights", false);
  if (!request.epochs.empty()) wish = for_each(request.epochs, sources.size(), "data.epochs", true);
  double sum = 0;
  for (size_t s = 0; s < sources.size(); ++s) {
    if (!request.epochs.empty()) wish[s] *= static_cast<double>(sources[s].samples);
    sum += wish[s];
  }
  if (!(sum > 0))
    throw Error::make(ExitCode::config, "{}: wanted at least one number above 0, all are 0",
                      request.weights.empty() ? "data.epochs" : "data.weights");
  for (double& share : wish) share /= sum;
  return wish;
}

std::vector<uint64_t> whole_shares(const std::vector<double>& wish) {
  std::vector<uint64_t> shares;
  for (const double share : wish)  // what is wanted at all gets at least the least
    shares.push_back(share > 0 ? std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(share * kScale))) : 0);
  return shares;
}

/// Samples that each cap leaves for the rest of the run.
std::vector<double> allowed(const std::vector<double>& caps, const std::vector<BlendSource>& sources) {
  std::vector<double> most;
  for (size_t s = 0; s < sources.size(); ++s) {
    const double samples = static_cast<double>(sources[s].samples);
    most.push_back(caps[s] > 0 ? std::floor(std::max(0.0, (caps[s] - sources[s].seen) * samples + 1e-6)) : HUGE_VAL);
  }
  return most;
}

[[noreturn]] void refuse_caps(const std::vector<double>& most, const std::vector<double>& wish,
                              const std::vector<BlendSource>& sources, uint64_t cursor, double wanted) {
  double there = 0;
  std::string lines;
  for (size_t s = 0; s < sources.size(); ++s) {
    if (wish[s] > 0) there += most[s];
    lines += fmt::format("\n  {}: {} samples an epoch, {:.2f} epochs read, {:.0f} samples left under the cap{}",
                         sources[s].name, sources[s].samples, sources[s].seen, most[s],
                         wish[s] > 0 ? "" : ", but its weight is 0");
  }
  throw Error::make(ExitCode::config,
                    "data.max_epochs leaves {:.0f} samples, but the rest of the run needs {:.0f}: all corpora would be "
                    "exhausted at sample {:.0f} of {:.0f}; raise the caps, add corpora or lower train.steps{}",
                    there, wanted, static_cast<double>(cursor) + there, static_cast<double>(cursor) + wanted, lines);
}

/// Shares under caps: whoever is above the cap is held to it, and what that frees goes to the others by weight.
std::vector<double> capped(std::vector<double> wish, const std::vector<double>& most,
                           const std::vector<BlendSource>& sources, uint64_t cursor, double wanted) {
  std::vector<double> samples(wish.size(), 0.0);
  std::vector<bool> held(wish.size(), false);
  for (double left = wanted, weight = 1.0;;) {
    bool again = false;
    double now_left = left, now_weight = weight;
    for (size_t s = 0; s < wish.size(); ++s) {
      if (held[s] || wish[s] == 0 || wish[s] / weight * left <= most[s]) continue;
      held[s] = again = true;
      samples[s] = most[s];
      now_left -= most[s];
      now_weight -= wish[s];
    }
    const bool open = [&] {
      for (size_t s = 0; s < wish.size(); ++s)
        if (!held[s] && wish[s] > 0) return true;
      return false;
    }();
    if (!open && now_left >= 0.5) refuse_caps(most, wish, sources, cursor, wanted);
    if (!again || !open) {
      for (size_t s = 0; s < wish.size(); ++s)
        if (!held[s]) samples[s] = open ? wish[s] / now_weight * now_left : 0.0;
      return samples;
    }
    left = now_left, weight = now_weight;
  }
}

/// Whole shares whose sequence of `wanted` samples never goes beyond a cap.
std::vector<uint64_t> shares_under_caps(const std::vector<double>& samples, const std::vector<double>& most,
                                        uint64_t wanted) {
  const uint64_t scale = std::max<uint64_t>(1, (uint64_t{1} << 52) / std::max<uint64_t>(wanted, 1));
  std::vector<uint64_t> shares;
  uint64_t sum = 0;
  size_t open = samples.size();
  for (size_t s = 0; s < samples.size(); ++s) {
    const bool held = samples[s] >= most[s];
    shares.push_back(held ? static_cast<uint64_t>(samples[s]) * scale
                          : static_cast<uint64_t>(samples[s] * static_cast<double>(scale)));
    sum += shares.back();
    const auto room = [&](size_t source) { return most[source] - samples[source]; };
    if (!held && samples[s] > 0 && (open == samples.size() || room(s) > room(open))) open = s;
  }
  if (open < samples.size() && sum < wanted * scale) shares[open] += wanted * scale - sum;
  return shares;
}

}  // namespace

std::vector<uint64_t> plan_blend(const BlendRequest& request, const std::vector<BlendSource>& sources,
                                 uint64_t cursor) {
  CAPSTAN_CHECK(!sources.empty(), "a blend of nothing");
  const bool natural = request.weights.empty() && request.epochs.empty();
  std::vector<double> wish;
  std::vector<uint64_t> shares;
  if (natural) {
    double sum = 0;
    for (const BlendSource& source : sources) sum += static_cast<double>(source.samples);
    for (const BlendSource& source : sources) {
      shares.push_back(source.samples);
      wish.push_back(static_cast<double>(source.samples) / sum);
    }
  } else {
    wish = wished(request, sources);
    shares = whole_shares(wish);
  }
  if (request.max_epochs.empty()) return shares;
  const std::vector<double> caps = for_each(request.max_epochs, sources.size(), "data.max_epochs", true);
  if (request.samples <= cursor) return shares;
  const uint64_t wanted = request.samples - cursor;
  const std::vector<double> most = allowed(caps, sources);
  bool within = true;  // by so much that rounding the shares cannot matter
  for (size_t s = 0; s < wish.size(); ++s) within = within && wish[s] * static_cast<double>(wanted) <= most[s] - 0.5;
  if (within) return shares;
  return shares_under_caps(capped(wish, most, sources, cursor, static_cast<double>(wanted)), most, wanted);
}

}  // namespace capstan
