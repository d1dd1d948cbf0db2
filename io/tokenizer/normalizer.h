#pragma once
// Normalizer: runs a list of normalizers over a text. Text that a step leaves as it is passes through without a copy,
// and steps look first whether they change anything. Bad bytes of broken UTF-8 pass every step unchanged and nothing
// combines across them. An object has scratch memory and is for one thread.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/spec.h"

namespace capstan {

/// One step.
class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  /// False: the text stays as it is, and `out` is not used. Otherwise `out`, empty before, is the new text.
  virtual bool run(std::string_view text, std::string& out) = 0;
};

class Normalizer {
 public:
  /// Error bad_data naming `where` for an expression that does not compile or a damaged character map.
  Normalizer(const std::vector<NormalizerSpec>& parts, const std::string& where);
  ~Normalizer();
  Normalizer(Normalizer&&) noexcept;

  bool empty() const { return steps_.empty(); }
  /// The text or a view of this object's memory, good until the next call. `begins`: false for the later pieces of a
  /// document, which get no prefix. `front_kept`: whether the first character stands for the first of the text.
  std::string_view run(std::string_view text, bool begins, bool& front_kept);

 private:
  struct Step {
    std::unique_ptr<NormalizerStep> step;
    bool prefix = false, drops = false;
  };
  std::vector<Step> steps_;
  std::string scratch_[2];
};

/// Steps that need more than a few lines have their own files.
std::unique_ptr<NormalizerStep> make_unicode_form(UnicodeForm::Form form);
std::unique_ptr<NormalizerStep> make_precompiled(const std::string& charsmap, const std::string& where);

}  // namespace capstan
