#pragma once
// Which of a library's algorithms runs a product. Candidates are timed once per kind of device, version of the library
// and shape; what was found is remembered in a file, and all ranks run what one of them found: the caller gathers
// to_bytes() of all ranks when the plans are made and gives every rank all of them, in ascending rank, to take(), so
// that the lowest rank that knows a product decides. Products that are prepared already follow, as they hold the entry
// and look at its number. The algorithm is a blob of the library's, checked by the library before use; a file from
// elsewhere, cut or spoilt loses its bad lines and does no harm. One thread.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

namespace capstan::kernels {

struct ProductChoice {
  std::array<uint64_t, 8> algorithm{};
  double seconds = 0.0;  ///< as timed; 0: never timed, the library's first guess
  int number = 0;        ///< grows with each change
  bool operator==(const ProductChoice& other) const { return algorithm == other.algorithm && seconds == other.seconds; }
};

class ProductChoices {
 public:
  /// directory: where choices are remembered; empty: nowhere.
  explicit ProductChoices(std::string directory = {}) : directory_(std::move(directory)) {}

  /// $CAPSTAN_CACHE, else $XDG_CACHE_HOME/capstan, else $HOME/.cache/capstan; empty when none of these is set.
  static std::string default_directory();

  /// What the choices are for: device and version of the library. Reads what is remembered for it; called once.
  void open(const std::string& hardware);
  const std::string& hardware() const { return hardware_; }

  /// Null when nothing is known of this product.
  std::shared_ptr<const ProductChoice> find(const std::string& product) const;
  std::shared_ptr<const ProductChoice> put(const std::string& product, const std::array<uint64_t, 8>& algorithm,
                                           double seconds);

  /// All that is known, as text.
  std::string to_bytes() const;
  /// Another rank's to_bytes(): its choices take the place of ours, but where one was taken since settle() began.
  /// false: they are for other hardware and were left alone.
  bool take(std::string_view bytes);
  /// From here on the first take() that knows a product decides on it.
  void settle() { settled_.clear(); }

  /// Adds what is known to the remembered file (written aside and renamed). Empty: done or nowhere to write; else why
  /// it could not be done, which hurts nothing but the next start.
  std::string save() const;
  std::string path() const;

  size_t size() const { return choices_.size(); }

 private:
  using Table = std::map<std::string, std::shared_ptr<ProductChoice>>;
  void set(const std::string& product, const ProductChoice& choice);

  std::string directory_, hardware_;
  Table choices_;
  std::set<std::string> settled_;
};

}  // namespace capstan::kernels
