#include "io/corpus/shard_writer.h"

#include <unistd.h>

#include <cstring>
#include <functional>
#include <vector>

#include "core/error.h"
#include "core/failpoint.h"
#include "io/checkpoint/digest.h"
#include "io/corpus/digest.h"
#include "io/corpus/shard.h"
#include "io/file_system.h"
#include "io/hdf5_handle.h"

namespace capstan {
namespace fs = std::filesystem;
namespace {

// A sample needs one or two chunks, wherever it lies: 64 KiB keeps what is read in vain small, and the hash table too.
constexpr uint64_t kChunkBytes = uint64_t{64} << 10;

void check(bool good, const fs::path& path, const char* what) {
  if (good) return;
  throw Error::make(ExitCode::io_error,
                    "{}: {} failed ({}); is the disk full? Free some space and run the same build again", path.string(),
                    what, hdf5_reason());
}

/// A one-dimensional dataset that grows chunk by chunk. It is created when its first chunk is complete or it ends, so
/// that a short one gets a short chunk.
class GrowingDataset {
 public:
  using Observer = std::function<void(const void*, size_t)>;  ///< sees each chunk's bytes as they are written
  GrowingDataset(const fs::path& path, const char* name, hid_t memory_type, hid_t file_type, Observer observer)
      : path_(path),
        name_(name),
        memory_type_(memory_type),
        file_type_(file_type),
        width_(H5Tget_size(memory_type)),
        observer_(std::move(observer)) {
    buffer_.reserve(kChunkBytes);
  }

  void append(hid_t file, const void* elements, size_t count) {
    const char* at = static_cast<const char*>(elements);
    for (size_t left = count * width_; left > 0;) {
      const size_t part = std::min(left, kChunkBytes - buffer_.size());
      buffer_.insert(buffer_.end(), at, at + part);
      at += part;
      left -= part;
      if (buffer_.size() == kChunkBytes) write_chunk(file);
    }
  }
  void finish(hid_t file) {
    if (!buffer_.empty()) write_chunk(file);
    check(id_.close(), path_, "closing a dataset");
  }
  uint64_t chunk_elements() const { return chunk_elements_; }

 private:
  void create(hid_t file) {
    chunk_elements_ = buffer_.size() / width_;
    const hsize_t none = 0, chunk = chunk_elements_, unlimited = H5S_UNLIMITED;
    const Hdf5Handle space(H5Screate_simple(1, &none, &unlimited), H5Sclose);
    const Hdf5Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    const Hdf5Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
    const bool good = H5Pset_chunk(creation.get(), 1, &chunk) >= 0 &&
                      H5Pset_obj_track_times(creation.get(), false) >= 0 &&  // the same bytes at any time of day
                      H5Pset_fill_time(creation.get(), H5D_FILL_TIME_ALLOC) >= 0 &&
                      H5Pset_chunk_cache(access.get(), 0, 0, 0.0) >= 0;
    check(good, path_, "setting up a dataset");
    id_ = Hdf5Handle(H5Dcreate2(file, name_, file_type_, space.get(), H5P_DEFAULT, creation.get(), access.get()),
                     H5Dclose);
    check(id_.valid(), path_, "creating a dataset");
  }

  void write_chunk(hid_t file) {
    if (!id_.valid()) create(file);
    const hsize_t count = buffer_.size() / width_, start = written_, extent = written_ + count;
    check(!failpoint("corpus.write") && H5Dset_extent(id_.get(), &extent) >= 0, path_, "growing a dataset");
    const Hdf5Handle target(H5Dget_space(id_.get()), H5Sclose), memory(H5Screate_simple(1, &count, nullptr), H5Sclose);
    const bool good = H5Sselect_hyperslab(target.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr) >= 0 &&
                      H5Dwrite(id_.get(), memory_type_, memory.get(), target.get(), H5P_DEFAULT, buffer_.data()) >= 0;
    check(good, path_, "writing a chunk");
    if (observer_) observer_(buffer_.data(), buffer_.size());
    written_ = extent;
    buffer_.clear();
  }

  fs::path path_;
  const char* name_;
  hid_t memory_type_, file_type_;
  size_t width_;
  Observer observer_;
  Hdf5Handle id_;
  std::vector<char> buffer_;
  uint64_t written_ = 0, chunk_elements_ = 0;
};

void write_attribute(const fs::path& path, hid_t file, const char* name, hid_t type, const void* value) {
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Hdf5Handle attribute(H5Acreate2(file, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(attribute.valid() && H5Awrite(attribute.get(), type, value) >= 0 && attribute.close(), path,
        "writing an attribute");
}

void write_count(const fs::path& path, hid_t file, const char* name, uint64_t value) {
  write_attribute(path, file, name, H5T_STD_U64LE, &value);
}

}  // namespace

struct CorpusShardWriter::State {
  State(const fs::path& directory_, const std::string& file_, const CorpusManifest& manifest_)
      : directory(directory_),
        partial(partial_name(directory_ / file_)),
        manifest(manifest_),
        wide(manifest_.token_width() == 4),
        tokens(partial, "tokens", wide ? H5T_NATIVE_UINT32 : H5T_NATIVE_UINT16, wide ? H5T_STD_U32LE : H5T_STD_U16LE,
               [this](const void* data, size_t bytes) { hash_chunk(data, bytes); }),
        offsets(partial, "document_offsets", H5T_NATIVE_UINT64, H5T_STD_U64LE,
                [this](const void* data, size_t bytes) { offsets_digest.update(data, bytes); }),
        document_hashes(partial, "document_hashes", H5T_NATIVE_UINT64, H5T_STD_U64LE,
                        [this](const void* data, size_t bytes) { document_hashes_digest.update(data, bytes); }) {
    record.file = file_;
  }
  // A root group without times, the default library versions (a file that LATEST left behind cannot be opened).
  void create() {
    const Hdf5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    H5Pset_obj_track_times(creation.get(), false);
    file = Hdf5Handle(H5Fcreate(partial.c_str(), H5F_ACC_TRUNC, creation.get(), H5P_DEFAULT), H5Fclose);
    if (!file.valid())
      throw Error::make(ExitCode::cannot_create, "{}: cannot create this file ({})", partial.string(), hdf5_reason());
  }
  void hash_chunk(const void* data, size_t bytes) { hashes.push_back(xxh3_64(data, bytes)); }
  void put(std::span<const char> stored);
  void put_offset(uint64_t offset) { offsets.append(file.get(), &offset, 1); }
  void write_tables();
  void close();
  void verify() const;

  fs::path directory, partial;
  CorpusManifest manifest;
  bool wide;
  Hdf5Handle file;
  GrowingDataset tokens, offsets, document_hashes;
  DigestStream offsets_digest, document_hashes_digest;
  std::vector<uint64_t> hashes;
  ShardRecord record;
  bool finished = false;
};

void CorpusShardWriter::State::put(std::span<const char> stored) {
  const uint64_t count = stored.size() / manifest.token_width();
  tokens.append(file.get(), stored.data(), count);
  record.tokens += count;
}

void CorpusShardWriter::State::write_tables() {
  tokens.finish(file.get());
  offsets.finish(file.get());
  document_hashes.finish(file.get());
  GrowingDataset table(partial, "chunk_hashes", H5T_NATIVE_UINT64, H5T_STD_U64LE, nullptr);
  table.append(file.get(), hashes.data(), hashes.size());
  table.finish(file.get());
  write_count(partial, file.get(), "format_version", kCorpusFormatVersion);
  write_count(partial, file.get(), "vocabulary", manifest.vocabulary);
  write_count(partial, file.get(), "token_count", record.tokens);
  write_count(partial, file.get(), "document_count", record.documents);
  write_count(partial, file.get(), "byte_count", record.bytes);
  const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  check(H5Tset_size(type.get(), 32) >= 0 && H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0, partial, "making a type");
  write_attribute(partial, file.get(), "tokenizer_hash", type.get(), manifest.tokenizer_hash.data());
}

void CorpusShardWriter::State::close() {
  check(!failpoint("corpus.flush") && H5Fflush(file.get(), H5F_SCOPE_GLOBAL) >= 0, partial, "flushing");
  check(!failpoint("corpus.close") && file.close(), partial, "closing");
  record.chunk_tokens = tokens.chunk_elements();
  record.hashes_digest = digest128_of(hashes.data(), hashes.size() * sizeof(uint64_t));
  record.offsets_digest = offsets_digest.value();
  record.document_hashes_digest = document_hashes_digest.value();
  record.file_size = fs::file_size(partial);
}

/// What a later reader will do, done now, while the text is still at hand.
void CorpusShardWriter::State::verify() const try {
  ShardRecord written = record;
  written.file = partial.filename().string();
  const CorpusShard shard(directory, written, manifest);
  std::vector<char> chunk(record.chunk_tokens * manifest.token_width());
  for (uint64_t i = 0; i < shard.chunks(); ++i) shard.read_chunk(i, chunk.data());
  static_cast<void>(shard.read_document_offsets());
  static_cast<void>(shard.read_document_hashes());
} catch (const Error& error) {
  throw Error::make(ExitCode::io_error,
                    "{}: what was just written does not read back ({}); is the "
                    "disk full or failing?",
                    partial.string(), error.what());
}

CorpusShardWriter::CorpusShardWriter(const fs::path& directory, const std::string& file,
                                     const CorpusManifest& manifest) {
  const Hdf5Session session;
  state_ = std::make_unique<State>(directory, file, manifest);
  state_->create();
  state_->put_offset(0);
}

CorpusShardWriter::~CorpusShardWriter() {
  const Hdf5Session session;
  const bool finished = state_->finished;
  const fs::path partial = state_->partial;
  state_.reset();
  if (!finished) unlink(partial.c_str());
}

void CorpusShardWriter::append(std::span<const char> stored, uint64_t text_bytes) {
  const Hdf5Session session;
  state_->put(stored);
  state_->record.bytes += text_bytes;
}

void CorpusShardWriter::end_document(uint64_t hash) {
  const Hdf5Session session;
  char end[4];  // little-endian: the first bytes are the short form
  std::memcpy(end, &state_->manifest.end_of_document, sizeof end);
  state_->put(std::span(end, state_->manifest.token_width()));
  state_->record.documents += 1;
  state_->put_offset(state_->record.tokens);
  state_->document_hashes.append(state_->file.get(), &hash, 1);
}

uint64_t CorpusShardWriter::tokens() const { return state_->record.tokens; }

ShardRecord CorpusShardWriter::finish() {
  const Hdf5Session session;
  state_->write_tables();
  state_->close();
  state_->verify();
  sync_file(state_->partial);
  rename_durably(state_->partial, state_->directory / state_->record.file);
  state_->finished = true;
  return state_->record;
}

}  // namespace capstan
