#include "io/weights/config_members.h"

#include <fmt/format.h>

#include <array>
#include <boost/json.hpp>

#include "io/json_events.h"

namespace capstan {
namespace json = boost::json;
namespace {

constexpr std::array kTokenIds = {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
                                  "decoder_start_token_id"};

void print(const json::value& value, const std::string& indent, std::string& out) {
  const std::string deeper = indent + "  ";
  if (const json::object* object = value.if_object(); object && !object->empty()) {
    const char* separator = "{\n";
    for (const auto& member : *object) {
      out += separator + deeper + json_quote(member.key()) + ": ";
      print(member.value(), deeper, out);
      separator = ",\n";
    }
    out += "\n" + indent + "}";
  } else if (const double* real = value.if_double()) {
    std::string text = fmt::format("{}", *real);
    if (text.find_first_of(".en") == text.npos) text += ".0";
    out += text;
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

std::string pretty_json(const json::value& value) {
  std::string out;
  print(value, "", out);
  return out + "\n";
}

std::string with_dtype(const std::string& config, const std::string& dtype) {
  json::object root = json::parse(config).as_object();
  bool changed = false;
  for (const char* name : {"dtype", "torch_dtype"})  // the first is what transformers calls it since its fifth version
    if (json::value* stated = root.if_contains(name); stated != nullptr && *stated != json::value(dtype))
      *stated = dtype, changed = true;
  return changed ? pretty_json(root) : config;
}

std::string with_token_ids_of(const std::string& config, const std::string& other) {
  json::object root = json::parse(config).as_object();
  const json::object from = json::parse(other).as_object();
  for (const char* name : kTokenIds)
    if (const json::value* ids = from.if_contains(name)) root[name] = *ids;
  return pretty_json(root);
}

}  // namespace capstan
