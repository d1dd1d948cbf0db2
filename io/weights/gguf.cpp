#include "io/weights/gguf.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "core/error.h"
#include "io/file_system.h"
#include "io/printable.h"
#include "io/safetensors.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

struct NamedGgmlType {
  uint32_t code;
  DType dtype;
};
constexpr NamedGgmlType kGgmlTypes[] = {{0, DType::f32}, {1, DType::f16}, {28, DType::f64}, {30, DType::bf16}};

uint64_t aligned_to(uint64_t bytes, uint64_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

// ---- writing

template <typename Number>
void put_number(std::string& out, Number value) {
  char bytes[sizeof(Number)];
  std::memcpy(bytes, &value, sizeof(Number));
  out.append(bytes, sizeof(Number));
}

void put_text(std::string& out, std::string_view text) {
  put_number<uint64_t>(out, text.size());
  out += text;
}

void put_type(std::string& out, GgufType type) { put_number(out, static_cast<uint32_t>(type)); }

template <typename Item, typename Put>
void put_array(std::string& out, GgufType type, const std::vector<Item>& items, Put&& each) {
  put_type(out, GgufType::array);
  put_type(out, type);
  put_number<uint64_t>(out, items.size());
  for (const Item& item : items) each(item);
}

void put_value(std::string& out, const GgufValue& value) {
  const auto number = [&](GgufType type, auto x) { put_type(out, type), put_number(out, x); };
  std::visit(
      [&](const auto& x) {
        using Held = std::decay_t<decltype(x)>;
        if constexpr (std::is_same_v<Held, uint32_t>) number(GgufType::u32, x);
        if constexpr (std::is_same_v<Held, int32_t>) number(GgufType::i32, x);
        if constexpr (std::is_same_v<Held, float>) number(GgufType::f32, x);
        if constexpr (std::is_same_v<Held, bool>) number(GgufType::boolean, static_cast<uint8_t>(x));
        if constexpr (std::is_same_v<Held, uint64_t>) number(GgufType::u64, x);
        if constexpr (std::is_same_v<Held, int64_t>) number(GgufType::i64, x);
        if constexpr (std::is_same_v<Held, double>) number(GgufType::f64, x);
        if constexpr (std::is_same_v<Held, std::string>) put_type(out, GgufType::string), put_text(out, x);
        if constexpr (std::is_same_v<Held, std::vector<std::string>>)
          put_array(out, GgufType::string, x, [&](const std::string& item) { put_text(out, item); });
        if constexpr (std::is_same_v<Held, std::vector<float>>)
          put_array(out, GgufType::f32, x, [&](float item) { put_number(out, item); });
        if constexpr (std::is_same_v<Held, std::vector<int32_t>>)
          put_array(out, GgufType::i32, x, [&](int32_t item) { put_number(out, item); });
      },
      value);
}

uint32_t ggml_type_of(DType dtype) {
  for (const NamedGgmlType& known : kGgmlTypes)
    if (known.dtype == dtype) return known.code;
  throw Error::make(ExitCode::internal, "GGUF has no tensors of type {}", name_of(dtype));
}

// ---- reading

class GgufCursor {
 public:
  GgufCursor(std::string_view bytes, uint64_t file_bytes, const std::string& where)
      : bytes_(bytes), file_bytes_(file_bytes), where_(where) {}

  Error bad(const std::string& why) const {
    return Error::make(ExitCode::bad_data, "{}: not a GGUF file we accept: byte {}: {}", where_, at_, why);
  }
  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  std::string_view take(uint64_t count, const char* what) {
    if (count > left())
      throw bad(fmt::format("{} of {} bytes, but {}", what, count,
                            file_bytes_ - at_ < count ? fmt::format("only {} are left", file_bytes_ - at_)
                                                      : std::string("a header may have 256 MiB at most")));
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  template <typename Number>
  Number number(const char* what) {
    Number value;
    std::memcpy(&value, take(sizeof(Number), what).data(), sizeof(Number));
    return value;
  }
  std::string_view text(const char* what, uint64_t most) {
    const uint64_t length = number<uint64_t>(what);
    if (length > most) throw bad(fmt::format("{} of {} bytes, wanted at most {}", what, length, most));
    return take(length, what);
  }
  /// How many items there are, each of at least `each` bytes.
  uint64_t count(const char* what, uint64_t each) {
    const uint64_t items = number<uint64_t>(what);
    if (items > left() / each)
      throw bad(fmt::format("{} {}, but the {} bytes left hold {} at most", items, what, left(), left() / each));
    return items;
  }

 private:
  std::string_view bytes_;
  uint64_t file_bytes_, at_ = 0;
  const std::string& where_;
};

uint64_t bytes_of_type(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    default:
      return 0;
  }
}

GgufType read_type(GgufCursor& cursor) {
  const uint32_t code = cursor.number<uint32_t>("a value's type");
  if (code > static_cast<uint32_t>(GgufType::f64)) throw cursor.bad(fmt::format("value type {}, wanted 0 to 12", code));
  return static_cast<GgufType>(code);
}

GgufValue read_scalar(GgufCursor& cursor, GgufType type) {
  switch (type) {
    case GgufType::u8:
      return uint32_t{cursor.number<uint8_t>("a value")};
    case GgufType::i8:
      return int32_t{cursor.number<int8_t>("a value")};
    case GgufType::u16:
      return uint32_t{cursor.number<uint16_t>("a value")};
    case GgufType::i16:
      return int32_t{cursor.number<int16_t>("a value")};
    case GgufType::u32:
      return cursor.number<uint32_t>("a value");
    case GgufType::i32:
      return cursor.number<int32_t>("a value");
    case GgufType::f32:
      return cursor.number<float>("a value");
    case GgufType::boolean: {
      const uint8_t flag = cursor.number<uint8_t>("a value");
      if (flag > 1) throw cursor.bad(fmt::format("a truth value of {}", flag));
      return flag == 1;
    }
    case GgufType::u64:
      return cursor.number<uint64_t>("a value");
    case GgufType::i64:
      return cursor.number<int64_t>("a value");
    case GgufType::f64:
      return cursor.number<double>("a value");
    default:
      return std::string(cursor.text("a text", kMaxGgufHeader));
  }
}

/// Arrays of texts, floats and ints are kept; others are checked and passed over.
GgufValue read_array(GgufCursor& cursor) {
  const GgufType type = read_type(cursor);
  if (type == GgufType::array) throw cursor.bad("an array of arrays");
  const uint64_t each = type == GgufType::string ? 8 : bytes_of_type(type);
  const uint64_t items = cursor.count("items of an array", each);
  if (type == GgufType::string) {
    std::vector<std::string> texts;
    for (uint64_t i = 0; i < items; ++i) texts.emplace_back(cursor.text("a text", kMaxGgufHeader));
    return texts;
  }
  const std::string_view bytes = cursor.take(items * each, "an array");
  if (type == GgufType::f32) {
    std::vector<float> numbers(items);
    if (items > 0) std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return numbers;
  }
  std::vector<int32_t> numbers(type == GgufType::i32 ? items : 0);
  if (!numbers.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

GgufTensor read_tensor_info(GgufCursor& cursor) {
  GgufTensor tensor;
  tensor.name = cursor.text("a tensor's name", kMaxGgufName);
  if (tensor.name.empty()) throw cursor.bad("a tensor without a name");
  const uint32_t dims = cursor.number<uint32_t>("a number of dims");
  if (dims > kMaxGgufDims)
    throw cursor.bad(fmt::format("tensor '{}' has {} dims, wanted at most 4", printable(tensor.name), dims));
  for (uint32_t i = 0; i < dims; ++i) {
    const uint64_t extent = cursor.number<uint64_t>("a dim");
    if (extent > static_cast<uint64_t>(INT64_MAX))
      throw cursor.bad(fmt::format("tensor '{}' has a dim of {}", printable(tensor.name), extent));
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  const uint32_t code = cursor.number<uint32_t>("a tensor's type");
  const auto known = std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes),
                                  [&](const NamedGgmlType& type) { return type.code == code; });
  if (known == std::end(kGgmlTypes))
    throw cursor.bad(
        fmt::format("tensor '{}' has ggml type {}, wanted 0 (F32), 1 (F16), 28 (F64) or 30 (BF16); "
                    "quantised weights cannot be read",
                    printable(tensor.name), code));
  tensor.dtype = known->dtype;
  const std::optional<uint64_t> bytes = checked_tensor_bytes(tensor.dtype, tensor.shape);
  if (!bytes) throw cursor.bad(fmt::format("the size of tensor '{}' overflows 64 bits", printable(tensor.name)));
  tensor.bytes = *bytes;
  tensor.offset = cursor.number<uint64_t>("a tensor's offset");
  return tensor;
}

void check_places(const GgufCursor& cursor, GgufHeader& header, uint64_t alignment, uint64_t file_bytes) {
  header.data_begin = aligned_to(cursor.at(), alignment);
  if (header.tensors.empty()) return;
  if (header.data_begin > file_bytes) throw cursor.bad("the file ends before its tensors");
  const uint64_t room = file_bytes - header.data_begin;
  std::vector<const GgufTensor*> in_order;
  for (const GgufTensor& tensor : header.tensors) {
    if (tensor.offset % alignment != 0)
      throw cursor.bad(
          fmt::format("tensor '{}' is at {}, no multiple of {}", printable(tensor.name), tensor.offset, alignment));
    if (tensor.offset > room || tensor.bytes > room - tensor.offset)
      throw cursor.bad(fmt::format("tensor '{}' of {} bytes at {} lies beyond the {} bytes of data",
                                   printable(tensor.name), tensor.bytes, tensor.offset, room));
    in_order.push_back(&tensor);
  }
  std::sort(in_order.begin(), in_order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < in_order.size(); ++i)
    if (in_order[i - 1]->offset + in_order[i - 1]->bytes > in_order[i]->offset)
      throw cursor.bad(
          fmt::format("tensors '{}' and '{}' overlap", printable(in_order[i - 1]->name), printable(in_order[i]->name)));
}

class GgufFile : public TensorFiles {
 public:
  explicit GgufFile(const fs::path& path)
      : TensorFiles(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (!file_.valid()) throw cannot_open(path, errno);
    const uint64_t bytes = size_of(file_, path);
    std::string start;
    GgufHeader header;
    // Most headers are small: a few MiB are tried before all of 256.
    for (uint64_t tried = std::min<uint64_t>(bytes, uint64_t{4} << 20);; tried = std::min(bytes, kMaxGgufHeader)) {
      start.resize(tried);
      read_exactly(file_, path, start.data(), 0, tried);
      try {
        header = parse_gguf_header(start, bytes, path.string());
        break;
      } catch (const Error&) {
        if (tried == std::min(bytes, kMaxGgufHeader)) throw;
      }
    }
    for (const GgufTensor& tensor : header.tensors) {
      tensors_[tensor.name] = {tensor.dtype, tensor.shape, tensor.bytes, name_of(tensor.dtype)};
      offsets_[tensor.name] = header.data_begin + tensor.offset;
    }
  }
  void read(std::string_view name, void* dst, uint64_t first_byte, uint64_t bytes) const override {
    const StoredTensor* tensor = find(name);
    if (!tensor || first_byte > tensor->bytes || bytes > tensor->bytes - first_byte)
      throw Error::make(ExitCode::bad_data, "{}: wanted bytes {}+{} of tensor '{}'", path_.string(), first_byte, bytes,
                        printable(name));
    read_exactly(file_, path_, dst, offsets_.find(name)->second + first_byte, bytes);
  }

 private:
  FileDescriptor file_;
  std::map<std::string, uint64_t, std::less<>> offsets_;
};

}  // namespace

std::string gguf_header(const GgufMetadata& metadata, std::vector<GgufTensor>& tensors) {
  std::string out(kGgufMagic);
  put_number<uint32_t>(out, kGgufVersion);
  put_number<uint64_t>(out, tensors.size());
  put_number<uint64_t>(out, metadata.size());
  for (const auto& [key, value] : metadata) put_text(out, key), put_value(out, value);
  uint64_t end = 0;
  for (GgufTensor& tensor : tensors) {
    CAPSTAN_CHECK(tensor.name.size() <= kMaxGgufName && tensor.shape.size() <= kMaxGgufDims, "GGUF tensor {}",
                  tensor.name);
    tensor.bytes = checked_tensor_bytes(tensor.dtype, tensor.shape).value();
    tensor.offset = end;
    end = aligned_to(end + tensor.bytes, kGgufAlignment);
    put_text(out, tensor.name);
    put_number<uint32_t>(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      put_number<uint64_t>(out, static_cast<uint64_t>(*extent));
    put_number<uint32_t>(out, ggml_type_of(tensor.dtype));
    put_number<uint64_t>(out, tensor.offset);
  }
  out.resize(aligned_to(out.size(), kGgufAlignment), '\0');
  return out;
}

GgufHeader parse_gguf_header(std::string_view bytes, uint64_t file_bytes, const std::string& where) {
  GgufCursor cursor(bytes.substr(0, kMaxGgufHeader), file_bytes, where);
  if (cursor.take(4, "the magic") != kGgufMagic) throw cursor.bad("it does not begin with GGUF");
  const uint32_t version = cursor.number<uint32_t>("the version");
  if (version != kGgufVersion) throw cursor.bad(fmt::format("version {}, wanted 3", version));
  const uint64_t tensors = cursor.count("tensors", 24);
  const uint64_t pairs = cursor.count("key-values", 13);
  GgufHeader header;
  for (uint64_t i = 0; i < pairs; ++i) {
    const std::string key(cursor.text("a key", kMaxGgufKey));
    const GgufType type = read_type(cursor);
    GgufValue value = type == GgufType::array ? read_array(cursor) : read_scalar(cursor, type);
    if (!header.metadata.emplace(key, std::move(value)).second)
      throw cursor.bad(fmt::format("key '{}' is there twice", printable(key)));
  }
  uint64_t alignment = kGgufAlignment;
  if (const auto said = header.metadata.find("general.alignment"); said != header.metadata.end()) {
    const auto* number = std::get_if<uint32_t>(&said->second);
    if (!number || *number < 8 || *number > 65536 || *number % 8 != 0)
      throw cursor.bad("general.alignment: wanted a multiple of 8 up to 65536");
    alignment = *number;
  }
  std::set<std::string> names;
  for (uint64_t i = 0; i < tensors; ++i) {
    header.tensors.push_back(read_tensor_info(cursor));
    if (!names.insert(header.tensors.back().name).second)
      throw cursor.bad(fmt::format("tensor '{}' is there twice", printable(header.tensors.back().name)));
  }
  check_places(cursor, header, alignment, file_bytes);
  return header;
}

std::unique_ptr<TensorFiles> open_gguf(const fs::path& path) { return std::make_unique<GgufFile>(path); }

}  // namespace capstan
