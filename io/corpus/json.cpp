#include "io/corpus/json.h"

#include "core/error.h"

namespace capstan {

JsonObject::JsonObject(const JsonValue& value, std::string where) : value_(&value), where_(std::move(where)) {
  static_cast<void>(value.object(where_));
}

const JsonValue& JsonObject::at(const char* key) const {
  if (const JsonValue* found = value_->find(key)) return *found;
  throw Error::make(ExitCode::bad_data, "{}: wanted the key \"{}\", it is not there", where_, key);
}

uint64_t JsonObject::number(const char* key) const { return at(key).count(way_to(key)); }
std::string JsonObject::text(const char* key) const { return at(key).text(way_to(key)); }
JsonObject JsonObject::object(const char* key) const { return JsonObject(at(key), way_to(key)); }
const JsonValue::Array& JsonObject::array(const char* key) const { return at(key).array(way_to(key)); }

}  // namespace capstan
