#pragma once
// RegularExpression: an expression of an untrusted file, run by PCRE2 with limits. Expressions in tokenizer.json are
// written for Oniguruma's Ruby dialect, so they are translated first: `^` and `$` match at every line, `{1,3}+` is a
// repetition and not possessive, `\h` is a hexadecimal digit, classes may nest. Broken UTF-8 never fails: each bad byte
// is matched as if it were the control character U+0001. An object is for one thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace capstan {

/// Where an expression matched.
struct TextRange {
  size_t begin = 0, end = 0;
  bool operator==(const TextRange&) const = default;
};

class RegularExpression {
 public:
  /// Error bad_data naming `where` when the expression is too long or does not compile.
  RegularExpression(std::string_view expression, std::string where);
  ~RegularExpression();
  RegularExpression(const RegularExpression&) = delete;
  RegularExpression& operator=(const RegularExpression&) = delete;

  /// Appends all matches, left to right; an empty match is not found where the one before ended. Error bad_data when a
  /// match takes more steps or memory than is allowed.
  void find_all(std::string_view text, std::vector<TextRange>& matches);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The translation alone, for tests.
std::string ruby_to_pcre(std::string_view expression, const std::string& where);

}  // namespace capstan
