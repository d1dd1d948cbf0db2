#include "io/corpus/shard.h"

#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/checkpoint/digest.h"
#include "io/corpus/digest.h"
#include "io/file_system.h"
#include "io/hdf5_handle.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little,
              "shards are little-endian, and so is every machine we run on");

[[noreturn]] void refuse(const fs::path& path, const std::string& why) {
  throw Error::make(ExitCode::bad_data,
                    "{}: {}; the shard is damaged or not ours: restore it from a copy or build the corpus again",
                    path.string(), why);
}

Hdf5Handle open_file(const fs::path& path) {
  Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_file_locking(access.get(), false, true);  // parallel file systems often have no locks, and nobody writes here
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (!file.valid()) refuse(path, "HDF5 cannot open it (" + hdf5_reason() + ")");
  return file;
}

/// Any unsigned integer attribute of one element, or a fixed-length string of exactly 32 characters.
Hdf5Handle open_attribute(const fs::path& path, hid_t file, const char* name, H5T_class_t wanted, size_t bytes) {
  Hdf5Handle attribute(H5Aopen(file, name, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) refuse(path, fmt::format("attribute {} is not there", name));
  Hdf5Handle type(H5Aget_type(attribute.get()), H5Tclose), space(H5Aget_space(attribute.get()), H5Sclose);
  const bool plain = H5Tget_class(type.get()) == wanted && H5Tget_size(type.get()) == bytes &&
                     H5Sget_simple_extent_npoints(space.get()) == 1 &&
                     (wanted != H5T_STRING || H5Tis_variable_str(type.get()) == 0);
  if (!plain) refuse(path, fmt::format("attribute {} is of the wrong type", name));
  return attribute;
}

void check_count(const fs::path& path, hid_t file, const char* name, uint64_t wanted) {
  const Hdf5Handle attribute = open_attribute(path, file, name, H5T_INTEGER, 8);
  uint64_t got = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_UINT64, &got) < 0 || got != wanted)
    refuse(path, fmt::format("attribute {}: wanted {}, got {}", name, wanted, got));
}

void check_version(const fs::path& path, hid_t file) {
  const Hdf5Handle attribute = open_attribute(path, file, "format_version", H5T_INTEGER, 8);
  uint64_t got = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_UINT64, &got) < 0 || got != kCorpusFormatVersion)
    throw Error::make(ExitCode::bad_data,
                      "{}: attribute format_version: wanted {}, got {}: build the corpus again with this program",
                      path.string(), kCorpusFormatVersion, got);
}

void check_tokenizer(const fs::path& path, hid_t file, const std::string& wanted) {
  const Hdf5Handle attribute = open_attribute(path, file, "tokenizer_hash", H5T_STRING, 32);
  const Hdf5Handle type(H5Aget_type(attribute.get()), H5Tclose);
  char got[33] = {};
  if (H5Aread(attribute.get(), type.get(), got) < 0 || wanted != got)
    refuse(path, fmt::format("attribute tokenizer_hash: wanted {}, got {}", wanted, got));
}

struct Dataset {
  Hdf5Handle id;
  Hdf5Handle space;
};

uint64_t checked_chunk(const fs::path& path, hid_t dataset, const char* name, uint64_t width) {
  const Hdf5Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  if (!creation.valid() || H5Pget_layout(creation.get()) != H5D_CHUNKED)
    refuse(path, fmt::format("dataset {}: wanted chunked storage", name));
  if (H5Pget_external_count(creation.get()) != 0)
    refuse(path, fmt::format("dataset {}: its data lie in other files", name));
  if (H5Pget_nfilters(creation.get()) != 0) refuse(path, fmt::format("dataset {}: wanted no filters", name));
  hsize_t chunk = 0;
  if (H5Pget_chunk(creation.get(), 1, &chunk) != 1 || chunk == 0 || chunk > kLargestChunkBytes / width)
    refuse(path, fmt::format("dataset {}: wanted chunks of at most {} bytes", name, kLargestChunkBytes));
  return chunk;
}

void check_shape(const fs::path& path, const Dataset& dataset, const char* name, hid_t type_wanted, uint64_t count) {
  const Hdf5Handle type(H5Dget_type(dataset.id.get()), H5Tclose);
  if (H5Tequal(type.get(), type_wanted) <= 0) refuse(path, fmt::format("dataset {}: wrong type of element", name));
  hsize_t extent = 0;
  const bool line = H5Sget_simple_extent_type(dataset.space.get()) == H5S_SIMPLE &&
                    H5Sget_simple_extent_ndims(dataset.space.get()) == 1 &&
                    H5Sget_simple_extent_dims(dataset.space.get(), &extent, nullptr) == 1;
  if (!line || extent != count)
    refuse(path, fmt::format("dataset {}: wanted one dim of {} elements, got {}", name, count, extent));
}

/// Only a hard link, and only what the rules at the top of corpus_shard.h allow.
Dataset open_dataset(const fs::path& path, hid_t file, const char* name, hid_t type, uint64_t count, uint64_t width,
                     uint64_t file_size) {
  if (count > file_size / width)
    refuse(path, fmt::format("dataset {}: {} elements do not fit a file of {} bytes", name, count, file_size));
  H5L_info_t link;
  if (H5Lget_info(file, name, &link, H5P_DEFAULT) < 0) refuse(path, fmt::format("dataset {} is not there", name));
  if (link.type != H5L_TYPE_HARD) refuse(path, fmt::format("dataset {} is a link to somewhere else", name));
  Hdf5Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  H5Pset_chunk_cache(access.get(), 0, 0, 0.0);  // chunks are kept decoded and checked, above
  Dataset dataset;
  dataset.id = Hdf5Handle(H5Dopen2(file, name, access.get()), H5Dclose);
  if (!dataset.id.valid()) refuse(path, fmt::format("dataset {} cannot be opened ({})", name, hdf5_reason()));
  checked_chunk(path, dataset.id.get(), name, width);
  dataset.space = Hdf5Handle(H5Dget_space(dataset.id.get()), H5Sclose);
  check_shape(path, dataset, name, type, count);
  return dataset;
}

bool read_run(const Dataset& dataset, hid_t type, uint64_t first, uint64_t count, void* out) {
  const hsize_t start = first, size = count;
  const Hdf5Handle memory(H5Screate_simple(1, &size, nullptr), H5Sclose);
  return memory.valid() &&
         H5Sselect_hyperslab(dataset.space.get(), H5S_SELECT_SET, &start, nullptr, &size, nullptr) >= 0 &&
         H5Dread(dataset.id.get(), type, memory.get(), dataset.space.get(), H5P_DEFAULT, out) >= 0;
}

std::vector<uint64_t> read_table(const fs::path& path, const Dataset& dataset, const char* name, uint64_t count,
                                 const Digest128& digest) {
  std::vector<uint64_t> table(count);
  if (!read_run(dataset, H5T_NATIVE_UINT64, 0, count, table.data()))
    refuse(path, fmt::format("dataset {} cannot be read ({})", name, hdf5_reason()));
  if (digest128_of(table.data(), count * sizeof(uint64_t)) != digest)
    refuse(path, fmt::format("dataset {} does not have the digest that the manifest gives", name));
  return table;
}

}  // namespace

struct CorpusShard::File {
  Hdf5Handle file;
  Dataset tokens;
  hid_t token_type = -1;
};

CorpusShard::CorpusShard(const fs::path& directory, const ShardRecord& record, const CorpusManifest& manifest)
    : path_(directory / record.file),
      record_(record),
      width_(manifest.token_width()),
      vocabulary_(manifest.vocabulary),
      file_(std::make_unique<File>()) {
  const uint64_t size = size_of(open_beneath(directory, record.file), path_);
  if (size != record.file_size)
    refuse(path_, fmt::format("wanted {} bytes, the file has {}{}", record.file_size, size,
                              size < record.file_size ? " (truncated)" : ""));
  const Hdf5Session session;
  file_->file = open_file(path_);
  const hid_t file = file_->file.get();
  check_version(path_, file);
  check_count(path_, file, "vocabulary", manifest.vocabulary);
  check_count(path_, file, "token_count", record.tokens);
  check_count(path_, file, "document_count", record.documents);
  check_count(path_, file, "byte_count", record.bytes);
  check_tokenizer(path_, file, manifest.tokenizer_hash);
  file_->token_type = width_ == 2 ? H5T_NATIVE_UINT16 : H5T_NATIVE_UINT32;
  file_->tokens =
      open_dataset(path_, file, "tokens", width_ == 2 ? H5T_STD_U16LE : H5T_STD_U32LE, record.tokens, width_, size);
  if (checked_chunk(path_, file_->tokens.id.get(), "tokens", width_) != record.chunk_tokens)
    refuse(path_, fmt::format("dataset tokens: wanted chunks of {} tokens", record.chunk_tokens));
  const Dataset hashes = open_dataset(path_, file, "chunk_hashes", H5T_STD_U64LE, chunks(), 8, size);
  hashes_ = read_table(path_, hashes, "chunk_hashes", chunks(), record.hashes_digest);
}

CorpusShard::~CorpusShard() {
  const Hdf5Session session;
  file_.reset();
}

uint64_t CorpusShard::tokens_in(uint64_t chunk) const {
  return std::min(record_.chunk_tokens, record_.tokens - chunk * record_.chunk_tokens);
}

std::string CorpusShard::place_of(uint64_t chunk) const {
  const uint64_t first = chunk * record_.chunk_tokens;
  return fmt::format("chunk {} of {} (tokens {} to {})", chunk, chunks(), first, first + tokens_in(chunk) - 1);
}

void CorpusShard::read_chunk(uint64_t chunk, void* out) const {
  CAPSTAN_CHECK(chunk < chunks(), "{}: chunk {} of {}", path_.string(), chunk, chunks());
  {
    const Hdf5Session session;
    if (!read_run(file_->tokens, file_->token_type, chunk * record_.chunk_tokens, tokens_in(chunk), out))
      refuse(path_, fmt::format("{} cannot be read ({})", place_of(chunk), hdf5_reason()));
  }
  if (failpoint("corpus.read")) static_cast<unsigned char*>(out)[0] ^= 1;
  check_hash(chunk, out);
  check_tokens(chunk, out);
}

void CorpusShard::check_hash(uint64_t chunk, const void* data) const {
  const uint64_t hash = xxh3_64(data, tokens_in(chunk) * width_);
  if (hash != hashes_[chunk])
    refuse(path_,
           fmt::format("{} is corrupt: its xxh3 is {:016x}, wanted {:016x}", place_of(chunk), hash, hashes_[chunk]));
}

void CorpusShard::check_tokens(uint64_t chunk, const void* data) const {
  const uint64_t count = tokens_in(chunk);
  const auto token = [&](uint64_t i) -> uint32_t {
    return width_ == 2 ? static_cast<const uint16_t*>(data)[i] : static_cast<const uint32_t*>(data)[i];
  };
  uint32_t largest = 0;
  for (uint64_t i = 0; i < count; ++i) largest = std::max(largest, token(i));
  if (largest < vocabulary_) return;
  for (uint64_t i = 0; i < count; ++i)
    if (token(i) >= vocabulary_)
      refuse(path_, fmt::format("{}: token {} has id {}, wanted below {}", place_of(chunk),
                                chunk * record_.chunk_tokens + i, token(i), vocabulary_));
}

std::vector<uint64_t> CorpusShard::read_document_offsets() const {
  const Hdf5Session session;
  const uint64_t count = record_.documents + 1;
  const Dataset offsets =
      open_dataset(path_, file_->file.get(), "document_offsets", H5T_STD_U64LE, count, 8, record_.file_size);
  std::vector<uint64_t> table = read_table(path_, offsets, "document_offsets", count, record_.offsets_digest);
  for (size_t i = 0; i + 1 < table.size(); ++i)
    if (table[i] >= table[i + 1]) refuse(path_, fmt::format("document_offsets: entry {} does not rise", i + 1));
  if (table.front() != 0 || table.back() != record_.tokens) refuse(path_, "document_offsets does not span the tokens");
  return table;
}

std::vector<uint64_t> CorpusShard::read_document_hashes() const {
  const Hdf5Session session;
  const Dataset hashes =
      open_dataset(path_, file_->file.get(), "document_hashes", H5T_STD_U64LE, record_.documents, 8, record_.file_size);
  return read_table(path_, hashes, "document_hashes", record_.documents, record_.document_hashes_digest);
}

}  // namespace capstan
