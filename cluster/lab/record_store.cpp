#include "cluster/lab/record_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/hash.h"
#include "io/file_system.h"
#include "io/hdf5_handle.h"

namespace capstan {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr hsize_t kMostRows = 1 << 20;
constexpr const char* kDataset = "records";

Error hdf5_failure(const std::string& where, const char* doing) {
  const std::string reason = hdf5_reason();
  return Error::make(ExitCode::bad_data, "{}: {} failed{}{}", where, doing, reason.empty() ? "" : ": ", reason);
}

Hdf5Handle owned(hid_t id, Hdf5Handle::Closer closer, const std::string& where, const char* doing) {
  if (id < 0) throw hdf5_failure(where, doing);
  return {id, closer};
}

void require(herr_t status, const std::string& where, const char* doing) {
  if (status < 0) throw hdf5_failure(where, doing);
}

size_t row_bytes() {
  size_t bytes = 0;
  for (const RecordField& field : record_fields()) bytes += field.bytes;
  return bytes;
}

Hdf5Handle type_of(const RecordField& field, const std::string& where) {
  if (std::holds_alternative<int64_t RunRecord::*>(field.member))
    return owned(H5Tcopy(H5T_NATIVE_INT64), H5Tclose, where, "an integer type");
  if (std::holds_alternative<double RunRecord::*>(field.member))
    return owned(H5Tcopy(H5T_NATIVE_DOUBLE), H5Tclose, where, "a real type");
  Hdf5Handle type = owned(H5Tcopy(H5T_C_S1), H5Tclose, where, "a text type");
  require(H5Tset_size(type.get(), field.bytes), where, "a text type's size");
  require(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), where, "a text type's padding");
  return type;
}

/// The row as it lies in memory and on disk, without gaps.
Hdf5Handle row_type(const std::string& where) {
  Hdf5Handle type = owned(H5Tcreate(H5T_COMPOUND, row_bytes()), H5Tclose, where, "the row's type");
  size_t offset = 0;
  for (const RecordField& field : record_fields()) {
    const Hdf5Handle member = type_of(field, where);
    require(H5Tinsert(type.get(), field.name, offset, member.get()), where, "a column");
    offset += field.bytes;
  }
  return type;
}

/// Cut between characters, so that what is left is UTF-8 still.
size_t bytes_that_fit(const std::string& text, size_t room) {
  size_t count = std::min(text.size(), room);
  while (count > 0 && count < text.size() && (static_cast<unsigned char>(text[count]) & 0xc0) == 0x80) --count;
  return count;
}

void pack(const RunRecord& record, char* row) {
  for (const RecordField& field : record_fields()) {
    if (const auto* t = std::get_if<std::string RunRecord::*>(&field.member))
      std::memcpy(row, (record.**t).data(), bytes_that_fit(record.**t, field.bytes));
    else if (const auto* i = std::get_if<int64_t RunRecord::*>(&field.member))
      std::memcpy(row, &(record.**i), 8);
    else
      std::memcpy(row, &(record.*std::get<double RunRecord::*>(field.member)), 8);
    row += field.bytes;
  }
}

RunRecord unpack(const char* row) {
  RunRecord record;
  for (const RecordField& field : record_fields()) {
    if (const auto* t = std::get_if<std::string RunRecord::*>(&field.member))
      record.** t = std::string(row, strnlen(row, field.bytes));
    else if (const auto* i = std::get_if<int64_t RunRecord::*>(&field.member))
      std::memcpy(&(record.**i), row, 8);
    else
      std::memcpy(&(record.*std::get<double RunRecord::*>(field.member)), row, 8);
    row += field.bytes;
  }
  return record;
}

void write_text_attribute(hid_t object, const std::string& name, const std::string& text, const std::string& where) {
  const Hdf5Handle type = owned(H5Tcopy(H5T_C_S1), H5Tclose, where, "a text type");
  require(H5Tset_size(type.get(), std::max<size_t>(text.size(), 1)), where, "a text type's size");
  const Hdf5Handle space = owned(H5Screate(H5S_SCALAR), H5Sclose, where, "a scalar");
  const Hdf5Handle attribute =
      owned(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, where,
            "an attribute");
  const std::string bytes = text.empty() ? std::string(1, '\0') : text;
  require(H5Awrite(attribute.get(), type.get(), bytes.data()), where, "an attribute's value");
}

void describe_columns(hid_t dataset, const std::string& where) {
  write_text_attribute(dataset, "format", "capstan records 1", where);
  for (const RecordField& field : record_fields()) {
    write_text_attribute(dataset, std::string("meaning.") + field.name, field.sentence, where);
    if (*field.unit != '\0') write_text_attribute(dataset, std::string("unit.") + field.name, field.unit, where);
  }
}

Hdf5Handle memory_file_properties(const std::string& where) {
  Hdf5Handle properties = owned(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, where, "file properties");
  require(H5Pset_fapl_core(properties.get(), size_t{1} << 16, 0), where, "a file in memory");
  require(H5Pset_libver_bounds(properties.get(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V18), where, "library bounds");
  return properties;
}

void write_rows(hid_t file, const std::vector<RunRecord>& records, const std::string& where) {
  const hsize_t rows = records.size(), unlimited = H5S_UNLIMITED, chunk = 64;
  const Hdf5Handle type = row_type(where);
  const Hdf5Handle space = owned(H5Screate_simple(1, &rows, &unlimited), H5Sclose, where, "the table's extent");
  const Hdf5Handle layout = owned(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, where, "the table's properties");
  require(H5Pset_chunk(layout.get(), 1, &chunk), where, "the table's chunks");
  require(H5Pset_deflate(layout.get(), 4), where, "compression");
  require(H5Pset_attr_phase_change(layout.get(), 0, 0), where, "attribute storage");
  const Hdf5Handle dataset =
      owned(H5Dcreate2(file, kDataset, type.get(), space.get(), H5P_DEFAULT, layout.get(), H5P_DEFAULT), H5Dclose,
            where, "the table");
  std::string bytes(records.size() * row_bytes(), '\0');
  for (size_t i = 0; i < records.size(); ++i) pack(records[i], bytes.data() + i * row_bytes());
  if (!records.empty())
    require(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), where, "writing rows");
  describe_columns(dataset.get(), where);
}

std::vector<RunRecord> read_rows(hid_t file, const std::string& where) {
  const Hdf5Handle dataset = owned(H5Dopen2(file, kDataset, H5P_DEFAULT), H5Dclose, where, "opening table 'records'");
  const Hdf5Handle space = owned(H5Dget_space(dataset.get()), H5Sclose, where, "the table's extent");
  hsize_t rows = 0;
  if (H5Sget_simple_extent_ndims(space.get()) != 1) throw Error::make(ExitCode::bad_data, "{}: no list of rows", where);
  H5Sget_simple_extent_dims(space.get(), &rows, nullptr);
  if (rows > kMostRows)
    throw Error::make(ExitCode::bad_data, "{}: {} rows; at most {} are expected", where, rows, kMostRows);
  const Hdf5Handle type = row_type(where);
  std::string bytes(rows * row_bytes(), '\0');
  for (size_t i = 0; i < rows; ++i) pack(RunRecord{}, bytes.data() + i * row_bytes());  // columns that it lacks
  if (rows > 0)
    require(H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), where, "reading rows");
  std::vector<RunRecord> records;
  for (size_t i = 0; i < rows; ++i) {
    records.push_back(unpack(bytes.data() + i * row_bytes()));
    check_record(records.back(), fmt::format("{}: row {}", where, i + 1));
  }
  return records;
}

/// Held until it goes away; the kernel ends it with the process.
class AppendLock {
 public:
  explicit AppendLock(const std::filesystem::path& path)
      : file_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (!file_.valid())
      throw Error::make(ExitCode::cannot_create, "cannot create {}: {}", path.string(), std::strerror(errno));
    struct flock whole {};
    whole.l_type = F_WRLCK;
    while (::fcntl(file_.get(), F_SETLKW, &whole) != 0 && errno == EINTR) {
    }  // where the file system has no locks, renames still keep the table whole
  }

 private:
  FileDescriptor file_;
};

// The library crashes on some damaged files, so no byte reaches it that the seal behind its last one does not vouch
// for. Readers of HDF5 take no notice of what follows a file's end.
constexpr std::string_view kSealMark = "\ncapstan records, xxh3 of all before: ";

std::string seal_of(std::string_view image) {
  return fmt::format("{}{:>32}\n", kSealMark, digest_of(std::string(image)));
}

std::string table_image(const std::vector<RunRecord>& records) {
  const std::string where = "the table of records";
  const Hdf5Session session;
  const Hdf5Handle properties = memory_file_properties(where);
  const Hdf5Handle file =
      owned(H5Fcreate("records", H5F_ACC_TRUNC, H5P_DEFAULT, properties.get()), H5Fclose, where, "creating it");
  write_rows(file.get(), records, where);
  require(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), where, "flushing it");
  const ssize_t bytes = H5Fget_file_image(file.get(), nullptr, 0);
  if (bytes < 0) throw hdf5_failure(where, "its image");
  std::string image(static_cast<size_t>(bytes), '\0');
  if (H5Fget_file_image(file.get(), image.data(), image.size()) != bytes) throw hdf5_failure(where, "its image");
  return image;
}

}  // namespace

std::string store_image(const std::vector<RunRecord>& records) {
  const std::string image = table_image(records);
  return image + seal_of(image);
}

std::vector<RunRecord> records_of_image(const std::string& sealed, const std::string& where) {
  const size_t at = sealed.rfind(kSealMark);
  const std::string image = sealed.substr(0, at == std::string::npos ? 0 : at);
  if (at == std::string::npos || sealed.substr(at) != seal_of(image))
    throw Error::make(ExitCode::bad_data,
                      "{}: this is not a table of records as capstan wrote it (damaged, cut short, or changed by "
                      "another program); the records of single runs are in the run directories, capstan records "
                      "DIR --add RUN makes a table of them anew",
                      where);
  const Hdf5Session session;
  const Hdf5Handle properties = memory_file_properties(where);
  std::string copy = image;  // the library wants bytes it may write to
  require(H5Pset_file_image(properties.get(), copy.data(), copy.size()), where, "reading it");
  const Hdf5Handle file =
      owned(H5Fopen("records", H5F_ACC_RDONLY, properties.get()), H5Fclose, where, "opening it as HDF5");
  return read_rows(file.get(), where);
}

std::vector<RunRecord> RecordStore::read() const {
  std::error_code failure;
  if (!std::filesystem::exists(path_, failure)) return {};
  return records_of_image(read_whole_file(path_, kMostBytes), path_.string());
}

bool RecordStore::append(const RunRecord& record, bool replace_failed) {
  check_record(record, "a new record");
  const AppendLock lock(path_.string() + ".lock");
  std::vector<RunRecord> records = read();
  const auto same =
      std::find_if(records.begin(), records.end(), [&](const RunRecord& r) { return r.run == record.run; });
  if (same != records.end()) {
    if (same->done() || !replace_failed) return false;
    *same = record;
  } else {
    records.push_back(record);
  }
  write_file_atomically(path_, store_image(records));
  return true;
}

bool is_hdf5(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  char first[8] = {};
  in.read(first, sizeof first);
  return in.gcount() == 8 && std::memcmp(first, "\x89HDF\r\n\x1a\n", 8) == 0;
}

}  // namespace capstan
