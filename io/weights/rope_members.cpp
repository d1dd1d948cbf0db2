#include "io/weights/rope_members.h"

#include <cmath>

#include "core/error.h"
#include "io/printable.h"
#include "io/weights/config_member.h"

namespace capstan {
namespace {

/// The members of rope_scaling, or else of rope_parameters.
class RopeMembers {
 public:
  RopeMembers(const JsonValue& root, int64_t context, const std::string& where)
      : root_(root), context_(context), where_(where), name_(rope_place(root)) {
    for (const char* name : {"rope_scaling", "rope_parameters"}) check_object(name);
    inner_ = root.find(name_);
    if (inner_ == nullptr || is_json_null(*inner_)) return;
    for (const JsonMember& member : inner_->object(name_))
      if (std::holds_alternative<JsonValue::Object>(member.value.content()))
        throw bad(printable(member.name), "one rotation for all layers", "an object");
  }

  JsonValue::Object all() {
    const std::string type = rope_type();
    put("rope_type", JsonValue(type));
    for (const char* name : {"rope_theta", "partial_rotary_factor"})
      if (const JsonValue* found = find(name)) put(name, *found);
    if (type == "llama3" || type == "yarn") put_number("original_max_position_embeddings", original_context());
    if (type == "linear" || type == "llama3" || type == "yarn") put_number("factor", factor(type));
    if (type == "llama3")
      for (const char* name : {"low_freq_factor", "high_freq_factor"}) put_number(name, above_zero(name));
    if (type == "yarn") put_yarn();
    return std::move(out_);
  }

 private:
  void check_object(const char* name) const {
    const JsonValue* found = root_.find(name);
    if (found == nullptr || is_json_null(*found) || std::holds_alternative<JsonValue::Object>(found->content())) return;
    throw Error::make(ExitCode::bad_data, "{}: {}: wanted an object or null, got {}", where_, name, shown_json(*found));
  }

  Error bad(const std::string& member, const std::string& wanted, const std::string& got) const {
    return Error::make(ExitCode::bad_data, "{}: {}.{}: wanted {}, got {}", where_, name_, member, wanted, got);
  }

  const JsonValue* find(const char* name) const { return inner_ ? inner_->find(name) : nullptr; }

  /// Null where the member is null or not there.
  const JsonValue* find_said(const char* name) const {
    const JsonValue* found = find(name);
    return found && !is_json_null(*found) ? found : nullptr;
  }

  void put(const char* name, JsonValue value) { out_.push_back({name, std::move(value)}); }
  void put_number(const char* name, double value) { put(name, JsonValue(value)); }

  std::string rope_type() const {
    for (const char* name : {"rope_type", "type"}) {
      const JsonValue* found = find(name);
      if (found == nullptr) continue;
      if (const auto* text = std::get_if<std::string>(&found->content())) return *text;
      throw bad(name, "a word", shown_json(*found));
    }
    return "default";
  }

  double number(const char* name) const {
    const JsonValue* found = find(name);
    const std::optional<double> value = found ? json_number(*found) : std::nullopt;
    if (!value) throw bad(name, "a number", found ? shown_json(*found) : "none");
    return *value;
  }

  double above_zero(const char* name) const {
    const double value = number(name);
    if (!(value > 0.0)) throw bad(name, "a number above 0", shown_json(*find(name)));
    return value;
  }

  double original_context() const {
    const char* name = "original_max_position_embeddings";
    const JsonValue* found = root_.find(name);
    if (found == nullptr) found = find(name);
    if (found == nullptr) return static_cast<double>(context_);
    const std::optional<double> value = json_number(*found);
    if (!value || !(*value >= 1.0) || *value != std::floor(*value))
      throw bad(name, "a whole number of at least 1", shown_json(*found));
    return *value;
  }

  double factor(const std::string& type) const {
    const JsonValue* found = find("factor");
    if (type == "yarn" && found != nullptr && is_json_null(*found))
      return static_cast<double>(context_) / original_context();
    return number("factor");
  }

  /// A 0 and a null are the default, as is nothing.
  double number_or(const char* name, double fallback) const {
    if (find_said(name) == nullptr) return fallback;
    const double value = number(name);
    return value == 0.0 ? fallback : value;
  }

  void put_yarn() {
    put_number("beta_fast", number_or("beta_fast", 32.0));
    put_number("beta_slow", number_or("beta_slow", 1.0));
    if (const JsonValue* found = find("truncate"); found && json_word(*found) != "true")
      throw bad("truncate", "true: bounds that are not rounded cannot be expressed", shown_json(*found));
    if (find_said("attention_factor")) return put_number("attention_factor", above_zero("attention_factor"));
    const double mscale = number_or("mscale", 0.0), all_dim = number_or("mscale_all_dim", 0.0);
    if (mscale == 0.0 || all_dim == 0.0) return;
    const double stretch = std::log(std::fmax(1.0, factor("yarn")));
    const double attention = (0.1 * mscale * stretch + 1.0) / (0.1 * all_dim * stretch + 1.0);
    if (!(attention > 0.0)) throw bad("mscale", "one that leaves a factor above 0", shown_json(*find("mscale")));
    put_number("attention_factor", attention);
  }

  const JsonValue& root_;
  const int64_t context_;
  const std::string& where_;
  const std::string name_;
  const JsonValue* inner_ = nullptr;
  JsonValue::Object out_;
};

}  // namespace

std::string rope_place(const JsonValue& root) {
  const auto says_something = [&](const char* name) {
    const JsonValue* found = root.find(name);
    const auto* members = found ? std::get_if<JsonValue::Object>(&found->content()) : nullptr;
    return members != nullptr && !members->empty();
  };
  return !says_something("rope_scaling") && says_something("rope_parameters") ? "rope_parameters" : "rope_scaling";
}

JsonValue explicit_rope(const JsonValue& root, int64_t context, const std::string& where) {
  JsonValue::Object members = RopeMembers(root, context, where).all();
  return JsonValue(JsonValue::Object{{"rope_scaling", JsonValue(std::move(members))}});
}

}  // namespace capstan
