#pragma once
// ParameterSource: the parameters of a model by our names and in our layout, wherever they lie: in a checkpoint, or in
// somebody else's files read through a TensorMap. It is what every writer and the proof read from, a stretch of rows at
// a time, so that memory follows the largest stretch and not the model. Not for several threads.

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/checkpoint/checkpoint.h"
#include "io/weights/tensor_files.h"
#include "io/weights/tensor_map.h"

namespace capstan {

class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  virtual DType dtype(const std::string& parameter) const = 0;
  /// Rows first .. first + count as they are stored.
  virtual void read(const std::string& parameter, int64_t first, int64_t count, void* dst) = 0;
};

class CheckpointSource : public ParameterSource {
 public:
  /// Error bad_data when a parameter is missing or of another shape or type.
  CheckpointSource(Checkpoint& checkpoint, const ParameterSet& parameters);
  DType dtype(const std::string& parameter) const override;
  void read(const std::string& parameter, int64_t first, int64_t count, void* dst) override;

 private:
  Checkpoint& checkpoint_;
};

/// What is to be known about tensors that the map does not use.
struct UnusedTensors {
  std::vector<std::string> constants;  ///< buffers that are no weights
  std::vector<std::string> notices;    ///< sentences for the user
};

class MappedSource : public ParameterSource {
 public:
  /// Matches the files with the map: every tensor of the map is there with its shape (or without the family's base
  /// prefix), every other one is a constant buffer or a copy of the tied head. Error bad_data that names all that is
  /// missing, left over, or of another shape. Both must outlive this.
  MappedSource(const TensorFiles& files, const TensorMap& map);
  const UnusedTensors& unused() const { return unused_; }
  DType dtype(const std::string& parameter) const override;
  void read(const std::string& parameter, int64_t first, int64_t count, void* dst) override;

 private:
  struct Turned {
    std::string name;
    std::vector<char> rows;
  };
  std::string name_in_files(const std::string& name) const;
  void check_shape(const MappedTensor& tensor, std::string& mistakes);
  void check_unused(std::string& mistakes);
  void check_tied_head(const std::string& name, std::string& mistakes);
  const Turned& turned(const MappedTensor& tensor);

  const TensorFiles& files_;
  const TensorMap& map_;
  std::map<std::string, std::string> names_;  ///< of the map -> in the files
  UnusedTensors unused_;
  std::list<Turned> turned_;  ///< transposed tensors read last
};

/// A parameter as one ascending stream of bytes in a type of choice. Error bad_data when values overflow the type.
class ParameterStream {
 public:
  ParameterStream(ParameterSource& source, std::string parameter, const std::vector<int64_t>& shape, DType to);
  /// Bytes first .. first + bytes; first is where the last call ended.
  void read(uint64_t first, uint64_t bytes, void* dst);

 private:
  void refill();
  ParameterSource& source_;
  std::string parameter_;
  RowShape shape_;
  DType to_;
  int64_t next_row_ = 0;
  uint64_t at_ = 0, begin_ = 0;  ///< in the stream: asked for next; where the buffer begins
  std::vector<char> stored_, buffer_;
};

/// Streams a tensor of theirs, as bytes in `to`, from our parameters. `put` gets ascending stretches. Error bad_data
/// naming the tensor when values overflow the type.
void write_mapped_tensor(const MappedTensor& tensor, ParameterSource& source, DType to,
                         const std::function<void(const void* data, uint64_t bytes)>& put);

}  // namespace capstan
