#pragma once
// Checked access to one object of a strict JSON text (io/json_events.h): every complaint names the file, the way to the
// object and the key. Refers to the JsonValue: keep that alive.

#include <cstdint>
#include <string>

#include "io/json_events.h"

namespace capstan {

class JsonObject {
 public:
  JsonObject(const JsonValue& value, std::string where);
  uint64_t number(const char* key) const;
  std::string text(const char* key) const;
  JsonObject object(const char* key) const;
  const JsonValue::Array& array(const char* key) const;
  const std::string& where() const { return where_; }

 private:
  const JsonValue& at(const char* key) const;
  std::string way_to(const char* key) const { return where_ + ": \"" + key + "\""; }

  const JsonValue* value_;
  std::string where_;
};

}  // namespace capstan
