#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/tokenizer/regular_expression.h"

#include <pcre2.h>

#include <array>
#include <optional>

#include "core/error.h"
#include "io/tokenizer/splitter.h"
#include "io/tokenizer/utf8.h"

namespace capstan {
namespace {

constexpr size_t kLongestExpression = 16 << 10;
constexpr uint32_t kMatchSteps = 10'000'000;
constexpr uint32_t kMatchKilobytes = 64 << 10;
constexpr uint32_t kDeepestNest = 100;
constexpr size_t kJitStack = 16 << 20;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

template <typename T, void (*release)(T*)>
struct Release {
  void operator()(T* object) const { release(object); }
};
template <typename T, void (*release)(T*)>
using Owner = std::unique_ptr<T, Release<T, release>>;

}  // namespace

struct RegularExpression::State {
  std::string where;
  Owner<pcre2_code, pcre2_code_free> code;
  Owner<pcre2_match_data, pcre2_match_data_free> data;
  Owner<pcre2_jit_stack, pcre2_jit_stack_free> jit_stack;
  Owner<pcre2_match_context, pcre2_match_context_free> context;
  std::string repaired;

  Error bad(const std::string& why) const { return Error::make(ExitCode::bad_data, "{}: {}", where, why); }

  /// The text itself, or a copy of the same length in which bad bytes are U+0001.
  std::string_view well_formed(std::string_view text) {
    size_t at = first_bad_utf8(text);
    if (at == text.npos) return text;
    repaired = text;
    for (; at != text.npos; at = first_bad_utf8(text, at + 1)) repaired[at] = '\x01';
    return repaired;
  }

  /// The first match at or after `from`; JIT first, then, when its stack is too small, the interpreter with its limits.
  std::optional<TextRange> find(std::string_view text, size_t from) {
    const auto run = [&](uint32_t options) {
      return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data.get(), context.get());
    };
    int found = run(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (found < 0) throw bad("the expression is too costly on this text: " + message_of(found));
    const size_t* place = pcre2_get_ovector_pointer(data.get());
    return TextRange{place[0], std::max(place[0], place[1])};
  }
};

RegularExpression::RegularExpression(std::string_view expression, std::string where)
    : state_(std::make_unique<State>()) {
  state_->where = std::move(where);
  if (expression.size() > kLongestExpression)
    throw state_->bad(
        fmt::format("wanted an expression of at most {} bytes, got {}", kLongestExpression, expression.size()));
  const std::string translated = ruby_to_pcre(expression, state_->where);
  const Owner<pcre2_compile_context, pcre2_compile_context_free> compiling(pcre2_compile_context_create(nullptr));
  pcre2_set_parens_nest_limit(compiling.get(), kDeepestNest);
  int problem = 0;
  size_t place = 0;
  state_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &problem, &place,
                                   compiling.get()));
  if (!state_->code)
    throw state_->bad(
        fmt::format("the expression \"{}\" does not compile: {}", expression.substr(0, 200), message_of(problem)));
  state_->data.reset(pcre2_match_data_create(1, nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(state_->context.get(), kMatchSteps);
  pcre2_set_heap_limit(state_->context.get(), kMatchKilobytes);
  if (pcre2_jit_compile(state_->code.get(), PCRE2_JIT_COMPLETE) == 0) {
    state_->jit_stack.reset(pcre2_jit_stack_create(32 << 10, kJitStack, nullptr));
    pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->jit_stack.get());
  }
}

RegularExpression::~RegularExpression() = default;

void RegularExpression::find_all(std::string_view text, std::vector<TextRange>& matches) {
  const std::string_view subject = state_->well_formed(text);
  std::optional<size_t> last_end;
  for (size_t from = 0; from <= subject.size();) {
    const std::optional<TextRange> match = state_->find(subject, from);
    if (!match) return;
    if (match->begin == match->end && last_end == match->end) {
      from += from < subject.size() ? utf8_at(subject, from).size : 1;
      continue;
    }
    matches.push_back(*match);
    last_end = from = match->end;
  }
}

namespace {

class RegexSplitter final : public Splitter {
 public:
  RegexSplitter(std::string_view expression, const std::string& where) : expression_(expression, where) {}
  void split(std::string_view text, std::vector<uint32_t>& ends) override {
    matches_.clear();
    expression_.find_all(text, matches_);
    size_t done = 0;
    const auto end_at = [&](size_t end) {
      if (end > done) ends.push_back(static_cast<uint32_t>(done = end));
    };
    for (const TextRange& match : matches_) {
      end_at(match.begin);
      end_at(match.end);
    }
    end_at(text.size());
  }

 private:
  RegularExpression expression_;
  std::vector<TextRange> matches_;
};

}  // namespace

std::unique_ptr<Splitter> regex_splitter(std::string_view expression, const std::string& where) {
  return std::make_unique<RegexSplitter>(expression, where);
}

}  // namespace capstan
