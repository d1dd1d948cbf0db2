#pragma once
// xxh3-128 of a stream of bytes: the digest of slices, files and manifests. It finds damage (13 GB/s on one core), it
// does not stop a forger.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace capstan {

struct Digest128 {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Digest128&) const = default;
  std::string hex() const;  ///< 32 lower-case digits
  static std::optional<Digest128> from_hex(std::string_view text);
};

class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  DigestStream(DigestStream&&) noexcept;
  DigestStream& operator=(DigestStream&&) noexcept;
  void reset();
  void update(const void* data, size_t bytes);
  Digest128 value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest128 digest128_of(const void* data, size_t bytes);
inline Digest128 digest128_of(std::string_view text) { return digest128_of(text.data(), text.size()); }

}  // namespace capstan
