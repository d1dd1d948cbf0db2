#include "io/weights/layer_kinds.h"

#include <fmt/format.h>

#include <cmath>

#include "io/weights/config_member.h"

namespace capstan {
namespace {

class KindsReading {
 public:
  KindsReading(const LayerKinds& kinds, int64_t layers, const MemberComplaint& bad)
      : kinds_(kinds), layers_(layers), bad_(bad) {}

  std::vector<bool> windows(const JsonValue& list) {
    for (const JsonValue& item : list_in(list))
      if (kinds_.in_periods && std::holds_alternative<JsonValue::Array>(item.content()))
        add_period(std::get<JsonValue::Array>(item.content()));
      else
        add(item);
    if (count() != layers_) throw too_many_or_few(std::to_string(count()));
    return std::move(windows_);
  }

 private:
  int64_t count() const { return static_cast<int64_t>(windows_.size()); }

  Error too_many_or_few(const std::string& got) const {
    return bad_(fmt::format("as many as there are layers, {}", layers_), got);
  }

  const JsonValue::Array& list_in(const JsonValue& value) const {
    const auto* list = std::get_if<JsonValue::Array>(&value.content());
    if (list == nullptr) throw bad_("a list", shown_json(value));
    return *list;
  }

  void add(const JsonValue& kind) {
    const std::string word = json_word(kind);
    if (word != kinds_.without_window && word != kinds_.with_window)
      throw bad_(fmt::format("{} or {}", kinds_.without_window, kinds_.with_window), shown_json(kind));
    if (count() >= layers_) throw too_many_or_few("more");
    windows_.push_back(word == kinds_.with_window);
  }

  void add_period(const JsonValue::Array& pair) {
    const double times = pair.size() == 2 ? json_number(pair.back()).value_or(-1.0) : -1.0;
    if (!(times >= 0.0 && times == std::floor(times)))
      throw bad_("[[[kind, kind, ...], times], ...]", "something else in the list");
    const JsonValue::Array& period = list_in(pair.front());
    if (period.empty()) throw bad_("[[[kind, kind, ...], times], ...]", "a period of no layers");
    if (times > static_cast<double>(layers_ - count())) throw too_many_or_few("more");
    for (int64_t i = 0; i < static_cast<int64_t>(times); ++i)
      for (const JsonValue& kind : period) add(kind);
  }

  const LayerKinds& kinds_;
  const int64_t layers_;
  const MemberComplaint& bad_;
  std::vector<bool> windows_;
};

}  // namespace

std::vector<bool> windows_of_kinds(const JsonValue& list, const LayerKinds& kinds, int64_t layers,
                                   const MemberComplaint& bad) {
  return KindsReading(kinds, layers, bad).windows(list);
}

}  // namespace capstan
