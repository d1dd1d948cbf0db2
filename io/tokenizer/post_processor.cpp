#include "io/tokenizer/post_processor.h"

#include <algorithm>

#include "core/error.h"
#include "io/tokenizer/component_json.h"

namespace capstan {
namespace {

class Reader {
 public:
  Reader(uint32_t vocabulary, const std::string& where) : vocabulary_(vocabulary), where_(where) {}
  PostProcessor result;

  void read(const JsonValue& value) {
    if (is_null(&value)) return;
    const std::string type = text_of(value, "type", "", where_);
    if (type == "Sequence") {
      for (const JsonValue& part : value.member("processors").array(where_)) read(part);
    } else if (type == "TemplateProcessing") {
      read_template(value);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      wrap({pair_id(value, "cls")}, {pair_id(value, "sep")});
    } else if (type != "ByteLevel") {
      throw bad("unknown type \"" + type +
                "\"; known: TemplateProcessing BertProcessing RobertaProcessing ByteLevel Sequence");
    }
  }

 private:
  Error bad(const std::string& why) const { return Error::make(ExitCode::bad_data, "{}: {}", where_, why); }

  uint32_t checked(const JsonValue& id) const {
    const uint64_t value = id.count(where_);
    if (value >= vocabulary_) throw bad(fmt::format("token {} of a vocabulary of {}", value, vocabulary_));
    return static_cast<uint32_t>(value);
  }

  /// ["[CLS]", 101]
  uint32_t pair_id(const JsonValue& value, const char* name) const {
    const JsonValue* pair = value.find(name);
    if (pair == nullptr || pair->array(where_).size() != 2) throw bad(fmt::format("wanted \"{}\": [name, id]", name));
    return checked(pair->array(where_)[1]);
  }

  void wrap(std::vector<uint32_t> before, const std::vector<uint32_t>& after) {
    before.insert(before.end(), result.before.begin(), result.before.end());
    result.before = std::move(before);
    result.after.insert(result.after.end(), after.begin(), after.end());
  }

  void read_template(const JsonValue& value) {
    std::vector<uint32_t> sides[2];
    int side = 0;
    for (const JsonValue& item : value.member("single").array(where_)) {
      if (item.find("Sequence") != nullptr) {
        if (side++ > 0) throw bad("a template for one text names the text twice");
        continue;
      }
      const JsonValue* special = item.find("SpecialToken");
      if (special == nullptr) throw bad("wanted SpecialToken or Sequence in a template, got another");
      const std::string name = text_of(*special, "id", "", where_);
      const JsonValue* declared = value.member("special_tokens").find(name);
      if (declared == nullptr) throw bad("the template does not declare the token \"" + name + "\"");
      for (const JsonValue& id : declared->member("ids").array(where_)) sides[side].push_back(checked(id));
    }
    wrap(sides[0], sides[1]);
  }

  uint32_t vocabulary_;
  const std::string& where_;
};

}  // namespace

PostProcessor read_post_processor(const JsonValue& value, uint32_t vocabulary, const std::string& where) {
  Reader reader(vocabulary, where);
  reader.read(value);
  return std::move(reader.result);
}

}  // namespace capstan
