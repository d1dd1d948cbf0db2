#include "kernels/product_choices.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

namespace capstan::kernels {
namespace {

// The text: a line "capstan products 1 <hardware>", then lines "<product>\t<8 words>\t<seconds>\t<hash of the line>".
constexpr std::string_view kProductsMagic = "capstan products 1 ";
constexpr size_t kMostBytes = size_t{16} << 20, kLongestLine = 1024;

using Line = std::pair<std::string, ProductChoice>;

uint64_t line_hash(std::string_view text) {  // FNV-1a: tells a spoilt line, not a forged one
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

bool read_hex(std::string_view text, uint64_t& value) {
  if (text.size() != 16) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc{} && end == text.data() + text.size();
}

std::string line_of(const std::string& product, const ProductChoice& choice) {
  std::string line = product + '\t';
  for (const uint64_t word : choice.algorithm) line += hex(word);
  char seconds[40];
  std::snprintf(seconds, sizeof seconds, "\t%.9g\t", choice.seconds);
  line += seconds;
  return line + hex(line_hash(line)) + '\n';
}

/// Takes what stands before the next `end` off the front of `text`.
std::string_view take_until(std::string_view& text, char end) {
  const size_t at = text.find(end);
  const std::string_view field = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
  return field;
}

std::optional<Line> parse_line(std::string_view line) {
  if (line.size() > kLongestLine || line.size() < 17) return std::nullopt;
  uint64_t hash = 0;
  if (!read_hex(line.substr(line.size() - 16), hash) || hash != line_hash(line.substr(0, line.size() - 16)))
    return std::nullopt;
  Line result;
  result.first = take_until(line, '\t');
  const std::string_view words = take_until(line, '\t'), seconds = take_until(line, '\t');
  if (result.first.empty() || words.size() != 16 * result.second.algorithm.size()) return std::nullopt;
  for (size_t i = 0; i < result.second.algorithm.size(); ++i)
    if (!read_hex(words.substr(16 * i, 16), result.second.algorithm[i])) return std::nullopt;
  const auto [end, error] = std::from_chars(seconds.data(), seconds.data() + seconds.size(), result.second.seconds);
  if (error != std::errc{} || end != seconds.data() + seconds.size()) return std::nullopt;
  if (!std::isfinite(result.second.seconds) || result.second.seconds < 0) return std::nullopt;
  return result;
}

/// Whether the text is for `hardware`; calls `each` for every line that is whole.
template <typename Each>
bool for_each_line(std::string_view text, const std::string& hardware, Each&& each) {
  if (text.size() > kMostBytes || take_until(text, '\n') != std::string(kProductsMagic) + hardware) return false;
  while (!text.empty())
    if (const std::optional<Line> line = parse_line(take_until(text, '\n'))) each(*line);
  return true;
}

std::string read_text(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > kMostBytes) return {};
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return file ? text.str() : std::string();
}

std::string write_text(const std::string& path, const std::string& text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return path + ": " + std::strerror(errno);
  std::string_view rest = text;
  int error = 0;
  while (!rest.empty() && error == 0) {
    const ssize_t written = ::write(file, rest.data(), rest.size());
    if (written > 0)
      rest.remove_prefix(static_cast<size_t>(written));
    else if (errno != EINTR)
      error = errno;
  }
  if (error == 0 && ::fsync(file) != 0) error = errno;
  if (::close(file) != 0 && error == 0) error = errno;
  return error == 0 ? std::string() : path + ": " + std::strerror(error);
}

/// A name of a file that holds nothing a shell or a file system minds.
std::string file_name_of(const std::string& hardware) {
  std::string name = "products-";
  for (const char c : hardware) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name + ".txt";
}

}  // namespace

std::string ProductChoices::default_directory() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string own = set("CAPSTAN_CACHE"); !own.empty()) return own;
  if (const std::string cache = set("XDG_CACHE_HOME"); !cache.empty()) return cache + "/capstan";
  if (const std::string home = set("HOME"); !home.empty()) return home + "/.cache/capstan";
  return {};
}

std::string ProductChoices::path() const {
  return directory_.empty() || hardware_.empty() ? std::string() : directory_ + "/" + file_name_of(hardware_);
}

void ProductChoices::open(const std::string& hardware) {
  if (!hardware_.empty()) return;
  hardware_ = hardware;
  for (char& c : hardware_)
    if (c == '\n' || c == '\t') c = ' ';
  if (!path().empty())
    for_each_line(read_text(path()), hardware_, [&](const Line& line) { set(line.first, line.second); });
}

void ProductChoices::set(const std::string& product, const ProductChoice& choice) {
  std::shared_ptr<ProductChoice>& entry = choices_[product];
  if (!entry) entry = std::make_shared<ProductChoice>();
  if (entry->number > 0 && *entry == choice) return;
  const int number = entry->number + 1;
  *entry = choice;
  entry->number = number;
}

std::shared_ptr<const ProductChoice> ProductChoices::find(const std::string& product) const {
  const auto found = choices_.find(product);
  return found == choices_.end() ? nullptr : found->second;
}

std::shared_ptr<const ProductChoice> ProductChoices::put(const std::string& product,
                                                         const std::array<uint64_t, 8>& algorithm, double seconds) {
  set(product, {algorithm, seconds});
  return find(product);
}

std::string ProductChoices::to_bytes() const {
  std::string text = std::string(kProductsMagic) + hardware_ + '\n';
  for (const auto& [product, choice] : choices_) text += line_of(product, *choice);
  return text;
}

bool ProductChoices::take(std::string_view bytes) {
  return for_each_line(bytes, hardware_, [&](const Line& line) {
    if (settled_.insert(line.first).second) set(line.first, line.second);
  });
}

std::string ProductChoices::save() const {
  if (path().empty()) return {};
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error) return directory_ + ": " + error.message();
  std::map<std::string, ProductChoice> all;  // what others wrote meanwhile is kept; what was never timed is left out
  for_each_line(read_text(path()), hardware_, [&](const Line& line) { all.insert(line); });
  for (const auto& [product, choice] : choices_)
    if (choice->seconds > 0) all[product] = *choice;
  std::string text = std::string(kProductsMagic) + hardware_ + '\n';
  for (const auto& [product, choice] : all) text += line_of(product, choice);
  const std::string aside = path() + "." + std::to_string(::getpid()) + ".new";
  std::string failure = write_text(aside, text);
  if (failure.empty() && std::rename(aside.c_str(), path().c_str()) != 0)
    failure = path() + ": " + std::strerror(errno);
  if (!failure.empty()) std::filesystem::remove(aside, error);
  return failure;
}

}  // namespace capstan::kernels
