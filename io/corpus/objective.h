#pragma once
// Objective: what a model is asked about a stretch of text. It turns raw windows of the token stream into the named
// fields that a plan's inputs carry. Fields of all objectives of one sequence, [samples, context]:
//   tokens         i32  what the model reads
//   targets        i32  what it shall say (causal: next)
//   loss_weights   f32  0 where nothing is asked: the target is another document's, a seam, blank, not masked
//   positions      i32  place in the document, from 0 at each document's start inside the sample
//   document_ids   i32  0, 1, ... inside the sample; attention stays among equal ids
// Without `separate` (data.document_mask = false) positions run through the sample, all ids are 0, and the first token
// of a document is a target like any other. Fields beyond these: objective_masked.h, objective_prefix.h,
// objective_spans.h.
// Rule: fields are a pure function of the window and its key, so they are the same on whatever rank they are made.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/types.h"

namespace capstan {

struct FieldSpec {
  std::string_view name;
  DType dtype;
  int64_t elements;  ///< per sample
};

/// Where to write each field; a field that is not set is not wanted. Names must outlive it (they are literals).
class SampleFields {
 public:
  SampleFields& set(std::string_view name, void* data);
  /// Null when not wanted.
  template <typename T>
  T* get(std::string_view name) const {
    return static_cast<T*>(find(name));
  }

 private:
  struct Entry {
    std::string_view name;
    void* data = nullptr;
  };
  void* find(std::string_view name) const;
  std::array<Entry, 16> entries_{};
  size_t count_ = 0;
};

/// Names a sample for random choices.
struct SampleKey {
  uint64_t cursor = 0;  ///< another one whenever the same text comes again
  uint64_t place = 0;   ///< the same whenever the same text comes again
  uint64_t epoch = 0;
};

/// What is known of a token beside its id.
enum TokenMark : uint8_t {
  kSeam = 1,   ///< does not continue the token before it
  kBlank = 2,  ///< no text: held out, or what packing left empty; reads as an end of document
};

/// `count` windows of `length` tokens one after another, and what is known about their tokens.
struct TokenWindows {
  std::span<const uint32_t> tokens;  // (count, length)
  std::span<const uint8_t> marks;    // (count, length)
  std::span<const SampleKey> keys;   // (count)
  int64_t count = 0;
  int64_t length = 0;
  uint32_t end_of_document = 0;
  std::span<const uint16_t> text_bytes;  ///< (vocabulary) bytes of text that each token stands for
};

/// What the loss divides by: known before the first backward pass.
struct SampleTally {
  double weight = 0;        ///< sum of loss_weights
  uint64_t text_bytes = 0;  ///< bytes of text of the targets that have weight: nats / (bytes ln 2) is bits per byte
  uint64_t blank = 0;       ///< tokens that were read blank
  SampleTally& operator+=(const SampleTally& other) {
    weight += other.weight;
    text_bytes += other.text_bytes;
    blank += other.blank;
    return *this;
  }
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual std::vector<FieldSpec> fields(int64_t context) const = 0;
  /// Raw tokens by which samples of `context` follow one another.
  virtual int64_t stride(int64_t context) const { return context; }
  /// Raw tokens that a sample of `context` needs: the stride, or one more.
  virtual int64_t window(int64_t context) const = 0;
  virtual SampleTally write(const TokenWindows& windows, const SampleFields& out) const = 0;
};

/// Predict the next token.
class CausalObjective final : public Objective {
 public:
  explicit CausalObjective(bool separate = true) : separate_(separate) {}
  std::vector<FieldSpec> fields(int64_t context) const override;
  int64_t window(int64_t context) const override { return context + 1; }
  SampleTally write(const TokenWindows& windows, const SampleFields& out) const override;

 private:
  bool separate_;
};

/// Positions and document ids of one window's first `context` tokens; null pointers are not wanted.
void write_documents(const uint32_t* tokens, const uint8_t* marks, int64_t context, uint32_t end_of_document,
                     bool separate, int32_t* positions, int32_t* document_ids);

/// The five fields of one sequence.
std::vector<FieldSpec> sequence_fields(int64_t context);

}  // namespace capstan
