#include "io/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <set>

#include "core/error.h"
#include "io/json_events.h"
#include "io/printable.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

/// All types of the format: what we do not compute with may still stand in a file, as a mask that is passed over.
struct NamedType {
  std::string_view name;
  uint64_t bits;
  std::optional<DType> dtype;
};
constexpr NamedType kTypes[] = {{"F64", 64, DType::f64},
                                {"F32", 32, DType::f32},
                                {"BF16", 16, DType::bf16},
                                {"F16", 16, DType::f16},
                                {"I64", 64, DType::i64},
                                {"I32", 32, DType::i32},
                                {"U32", 32, DType::u32},
                                {"U16", 16, DType::u16},
                                {"U8", 8, DType::u8},
                                {"BOOL", 8, {}},
                                {"I8", 8, {}},
                                {"I16", 16, {}},
                                {"U64", 64, {}},
                                {"C64", 64, {}},
                                {"F8_E4M3", 8, {}},
                                {"F8_E5M2", 8, {}},
                                {"F8_E8M0", 8, {}},
                                {"F8_E4M3FNUZ", 8, {}},
                                {"F8_E5M2FNUZ", 8, {}},
                                {"F6_E2M3", 6, {}},
                                {"F6_E3M2", 6, {}},
                                {"F4", 4, {}}};
constexpr uint64_t kLengthBytes = 8;  ///< the little-endian header length in front

/// Product of the shape times `each`; nothing when a dim is negative or the product is more than `most`.
std::optional<uint64_t> checked_product(uint64_t each, const std::vector<int64_t>& shape, uint64_t most) {
  uint64_t product = each;
  bool overflow = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    overflow |= __builtin_mul_overflow(product, static_cast<uint64_t>(extent), &product);
  }
  if (overflow || product > most) return std::nullopt;
  return product;
}

Error bad(const fs::path& path, const std::string& why) {
  return Error::make(ExitCode::bad_data, "{}: not a safetensors file we accept: {}", path.string(), why);
}

/// The header as events: only {name: {dtype: string, shape: [counts], data_offsets: [begin, end]}} and
/// {__metadata__: {name: string}} get through, so memory follows the number of real entries.
class HeaderReader : public JsonEvents {
 public:
  HeaderReader(const fs::path& path, uint64_t data_bytes) : path_(path), data_bytes_(data_bytes) {}

  std::vector<SafetensorsEntry> entries;
  SafetensorsMetadata metadata;

  void object_begin() override {
    if (++depth_ > 2 || in_array_) throw unexpected("an object");
  }
  void object_end() override {
    if (--depth_ == 1 && !in_metadata_) close_entry();
    if (depth_ == 1) in_metadata_ = false;
  }
  void array_begin() override {
    if (depth_ != 2 || in_metadata_ || in_array_ || (field_ != "shape" && field_ != "data_offsets"))
      throw unexpected("an array");
    in_array_ = true;
    (field_ == "shape" ? has_shape_ : has_offsets_) = true;
  }
  void array_end() override { in_array_ = false; }
  void key(std::string_view name) override {
    if (depth_ == 1)
      begin_entry(name);
    else
      field_ = name;
  }
  void text(std::string_view value) override {
    if (depth_ == 2 && in_metadata_) {
      if (metadata.size() == kMaxSafetensorsMetadata)
        throw bad(path_, fmt::format("more than {} members of __metadata__", kMaxSafetensorsMetadata));
      metadata.emplace(field_, value);
      return;
    }
    if (depth_ != 2 || in_array_ || field_ != "dtype") throw unexpected("a string");
    type_ = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const NamedType& t) { return t.name == value; });
    if (type_ == std::end(kTypes))
      throw of_tensor(fmt::format("has dtype '{}', which is none of the format's", printable(value)));
    entry_.dtype = type_->dtype;
    entry_.type = type_->name;
    has_dtype_ = true;
  }
  void count(uint64_t value) override {
    if (!in_array_) throw unexpected("a number");
    if (field_ == "data_offsets") {
      if (offsets_.size() == 2) throw of_tensor("has more than two data_offsets");
      offsets_.push_back(value);
      return;
    }
    if (entry_.shape.size() == kMaxTensorDims) throw of_tensor(fmt::format("has more than {} dims", kMaxTensorDims));
    if (value > static_cast<uint64_t>(INT64_MAX)) throw of_tensor(fmt::format("has a dim of {}", value));
    entry_.shape.push_back(static_cast<int64_t>(value));
  }
  void negative(int64_t) override { throw unexpected("a negative number"); }
  void real(double) override { throw unexpected("a number that is not a whole one"); }
  void boolean(bool) override { throw unexpected("true or false"); }
  void null() override { throw unexpected("null"); }

 private:
  Error unexpected(const char* got) const {
    if (depth_ <= 1 && name_.empty()) return bad(path_, fmt::format("wanted an object of tensors, got {}", got));
    return bad(path_,
               fmt::format("tensor '{}', field '{}': {} has no place there", printable(name_), printable(field_), got));
  }
  Error of_tensor(const std::string& why) const {
    return bad(path_, fmt::format("tensor '{}' {}", printable(name_), why));
  }
  void begin_entry(std::string_view name) {
    if (entries.size() == kMaxSafetensorsEntries)
      throw bad(path_, fmt::format("more than {} tensors", kMaxSafetensorsEntries));
    if (name.empty()) throw bad(path_, "a tensor without a name");
    name_ = name;
    field_.clear();
    in_metadata_ = name == "__metadata__";
    entry_ = {};
    entry_.name = name_;
    offsets_.clear();
    has_dtype_ = has_shape_ = has_offsets_ = false;
  }
  void close_entry() {
    if (!has_dtype_ || !has_shape_ || offsets_.size() != 2)
      throw of_tensor(!has_dtype_ ? "lacks dtype" : !has_shape_ ? "lacks shape" : "lacks two data_offsets");
    const std::optional<uint64_t> bits = checked_product(type_->bits, entry_.shape, UINT64_MAX);
    if (!bits) throw of_tensor("has a size that overflows 64 bits");
    if (*bits % 8 != 0) throw of_tensor(fmt::format("of type {} ends within a byte", entry_.type));
    const uint64_t bytes = *bits / 8;
    if (offsets_[0] > offsets_[1] || offsets_[1] > data_bytes_)
      throw of_tensor(
          fmt::format("has data_offsets [{}, {}], wanted an ascending pair within the {} bytes of data in "
                      "the file",
                      offsets_[0], offsets_[1], data_bytes_));
    if (offsets_[1] - offsets_[0] != bytes)
      throw of_tensor(fmt::format("has {} bytes by its shape and dtype, but {} by its data_offsets", bytes,
                                  offsets_[1] - offsets_[0]));
    entry_.offset = offsets_[0];
    entry_.bytes = bytes;
    entries.push_back(std::move(entry_));
  }

  const fs::path& path_;
  uint64_t data_bytes_;
  int depth_ = 0;
  bool in_array_ = false, in_metadata_ = false;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::string name_, field_;
  SafetensorsEntry entry_;
  const NamedType* type_ = nullptr;
  std::vector<uint64_t> offsets_;
};

/// Sorts by offset and proves that the tensors lie back to back over all the data.
void check_cover(const fs::path& path, std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  uint64_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset != end)
      throw bad(path, fmt::format("tensor '{}' begins at byte {} of the data, wanted {}: a hole or an overlap",
                                  printable(entry.name), entry.offset, end));
    end += entry.bytes;
  }
  if (end != data_bytes)
    throw bad(path, fmt::format("the tensors take {} bytes, the file holds {} after the header", end, data_bytes));
}

/// Length of the header, checked against the file before a byte of it is allocated.
uint64_t header_length(const fs::path& path, const FileDescriptor& file, uint64_t file_bytes) {
  if (file_bytes < kLengthBytes + 2)
    throw bad(path, fmt::format("it has {} bytes, wanted at least {}", file_bytes, kLengthBytes + 2));
  unsigned char start[kLengthBytes + 1];
  read_exactly(file, path, start, 0, sizeof start);
  uint64_t length = 0;
  for (size_t i = kLengthBytes; i-- > 0;) length = length << 8 | start[i];
  if (length > kMaxSafetensorsHeader || length > file_bytes - kLengthBytes)
    throw bad(path,
              fmt::format("it declares a header of {} bytes, wanted at most {} and no more than the file's {} bytes",
                          length, kMaxSafetensorsHeader, file_bytes));
  if (length < 2 || start[kLengthBytes] != '{') throw bad(path, "the header does not begin with '{'");
  return length;
}

std::string header_text(const std::vector<SafetensorsEntry>& entries, const SafetensorsMetadata& metadata) {
  std::string text = "{";
  const char* comma = "";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [name, value] : metadata) {
      text += comma + json_quote(name) + ":" + json_quote(value);
      comma = ",";
    }
    text += "}";
  }
  for (const SafetensorsEntry& entry : entries) {
    text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", comma,
                        json_quote(entry.name), safetensors_name(*entry.dtype), fmt::join(entry.shape, ","),
                        entry.offset, entry.offset + entry.bytes);
    comma = ",";
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of 8
  return text;
}

/// Fills in offsets (from the start of the data) and bytes; returns the size of the data.
uint64_t lay_out(const fs::path& path, std::vector<SafetensorsEntry>& entries) {
  std::set<std::string_view> names;
  uint64_t end = 0;
  for (SafetensorsEntry& entry : entries) {
    CAPSTAN_CHECK(!entry.name.empty() && entry.name.size() <= kMaxTensorName && entry.name != "__metadata__" &&
                      names.insert(entry.name).second,
                  "{}: tensor name '{}' is empty, too long, reserved or given twice", path.string(), entry.name);
    CAPSTAN_CHECK(entry.dtype, "{}: tensor '{}' has no dtype", path.string(), entry.name);
    const std::optional<uint64_t> bytes = checked_tensor_bytes(*entry.dtype, entry.shape);
    CAPSTAN_CHECK(bytes && entry.shape.size() <= kMaxTensorDims, "{}: tensor '{}' has a shape that cannot be",
                  path.string(), entry.name);
    entry.offset = end;
    entry.bytes = *bytes;
    end += *bytes;
  }
  CAPSTAN_CHECK(entries.size() <= kMaxSafetensorsEntries, "{}: {} tensors are too many for one file", path.string(),
                entries.size());
  return end;
}

}  // namespace

std::optional<DType> safetensors_dtype(std::string_view name) {
  for (const NamedType& known : kTypes)
    if (known.name == name) return known.dtype;
  return std::nullopt;
}

std::string_view safetensors_name(DType dtype) {
  for (const NamedType& known : kTypes)
    if (known.dtype == dtype) return known.name;
  return "?";
}

std::optional<uint64_t> checked_tensor_bytes(DType dtype, const std::vector<int64_t>& shape) {
  return checked_product(bytes_of(dtype), shape, static_cast<uint64_t>(INT64_MAX));
}

void read_exactly(const FileDescriptor& file, const fs::path& path, void* dst, uint64_t offset, uint64_t bytes) {
  char* at = static_cast<char*>(dst);
  while (bytes > 0) {
    const ssize_t got = pread(file.get(), at, std::min<uint64_t>(bytes, 1u << 30), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw Error::make(ExitCode::io_error, "{}: read failed at byte {}: {}", path.string(), offset,
                        std::strerror(errno));
    if (got == 0)
      throw Error::make(ExitCode::bad_data, "{}: ends at byte {}, wanted {} bytes more", path.string(), offset, bytes);
    at += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // links are the user's own affair here
  if (!file.valid()) throw cannot_open(path, errno);
  return {path, std::move(file)};
}

SafetensorsFile SafetensorsFile::open_beneath(const fs::path& root, std::string_view name) {
  return {root / fs::path(name), capstan::open_beneath(root, name)};
}

SafetensorsFile::SafetensorsFile(fs::path path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {
  const uint64_t file_bytes = file_bytes_ = size_of(file_, path_);
  const uint64_t length = header_length(path_, file_, file_bytes);
  const uint64_t data_begin = kLengthBytes + length;
  std::string text(length, '\0');
  read_exactly(file_, path_, text.data(), kLengthBytes, length);
  HeaderReader reader(path_, file_bytes - data_begin);
  JsonLimits limits;
  limits.depth = 4;  // one more than is good, so that the refusal can name the tensor
  limits.key_bytes = kMaxTensorName;
  limits.values = kMaxSafetensorsEntries * 8;
  parse_json_events(text, path_.string(), limits, reader);
  check_cover(path_, reader.entries, file_bytes - data_begin);
  entries_ = std::move(reader.entries);
  metadata_ = std::move(reader.metadata);
  for (SafetensorsEntry& entry : entries_) entry.offset += data_begin;
  by_name_.resize(entries_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return entries_[a].name < entries_[b].name; });
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](uint32_t i, std::string_view wanted) { return entries_[i].name < wanted; });
  return at != by_name_.end() && entries_[*at].name == name ? &entries_[*at] : nullptr;
}

void SafetensorsFile::read(std::string_view name, void* dst, uint64_t first_byte, uint64_t bytes) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry)
    throw Error::make(ExitCode::bad_data, "{}: wanted tensor '{}', there is none", path_.string(), printable(name));
  if (first_byte > entry->bytes || bytes > entry->bytes - first_byte)
    throw Error::make(ExitCode::bad_data, "{}: wanted bytes {} to {}+{} of tensor '{}', it has {}", path_.string(),
                      first_byte, first_byte, bytes, printable(name), entry->bytes);
  read_exactly(file_, path_, dst, entry->offset + first_byte, bytes);
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<SafetensorsEntry> entries,
                                     const SafetensorsMetadata& metadata)
    : file_(path), entries_(std::move(entries)) {
  const uint64_t data_bytes = lay_out(path, entries_);
  const std::string header = header_text(entries_, metadata);
  CAPSTAN_CHECK(header.size() <= kMaxSafetensorsHeader, "{}: a header of {} bytes is more than readers take",
                path.string(), header.size());
  std::string start(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) start[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  start += header;
  for (SafetensorsEntry& entry : entries_) entry.offset += start.size();
  end_ = start.size() + data_bytes;
  put(start.data(), start.size());
}

void SafetensorsWriter::put(const void* data, uint64_t bytes) {
  file_.write(data, bytes);
  digest_.update(data, bytes);
}

void SafetensorsWriter::write(const void* data, uint64_t bytes) {
  CAPSTAN_CHECK(bytes <= end_ - file_.size(), "{}: {} bytes more than the header declares", file_.path().string(),
                bytes - (end_ - file_.size()));
  put(data, bytes);
}

void SafetensorsWriter::finish() {
  CAPSTAN_CHECK(file_.size() == end_, "{}: wrote {} of {} bytes", file_.path().string(), file_.size(), end_);
  file_.sync_and_close();
}

}  // namespace capstan
