#pragma once
// Objective: what a model is asked about a stretch of text. It turns raw windows of the token stream into the named
// fields that a plan's inputs carry. Fields of a causal model, all [samples, context]:
//   tokens         i32  what the model reads
//   targets        i32  what it shall say next
//   loss_weights   f32  0 where the target belongs to another document, else 1
//   positions      i32  place in the document, from 0 at each document's start inside the sample
//   document_ids   i32  0, 1, ... inside the sample; attention stays among equal ids
// Rule: fields are a pure function of the window, so they are the same on whatever rank they are made.

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

/// `count` windows of `length` tokens one after another, and what is known about their tokens.
struct TokenWindows {
  std::span<const uint32_t> tokens;  // (count, length)
  int64_t count = 0;
  int64_t length = 0;
  uint32_t end_of_document = 0;
  std::span<const uint16_t> text_bytes;  ///< (vocabulary) bytes of text that each token stands for
};

/// What the loss divides by: known before the first backward pass.
struct SampleTally {
  double weight = 0;        ///< sum of loss_weights
  uint64_t text_bytes = 0;  ///< bytes of text of the targets that have weight: nats / (bytes ln 2) is bits per byte
  SampleTally& operator+=(const SampleTally& other) {
    weight += other.weight;
    text_bytes += other.text_bytes;
    return *this;
  }
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual std::vector<FieldSpec> fields(int64_t context) const = 0;
  /// Raw tokens that a sample of `context` needs.
  virtual int64_t window(int64_t context) const = 0;
  virtual SampleTally write(const TokenWindows& windows, const SampleFields& out) const = 0;
};

/// Predict the next token.
class CausalObjective final : public Objective {
 public:
  std::vector<FieldSpec> fields(int64_t context) const override;
  int64_t window(int64_t context) const override { return context + 1; }
  SampleTally write(const TokenWindows& windows, const SampleFields& out) const override;
};

}  // namespace capstan
