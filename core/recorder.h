#pragma once
// Recorder: writes a tape. Models are written once, for one device, in global shapes; record() asks the op for its
// output shapes and for its placement rule on every axis of more than one rank, takes the signature that needs the
// least conversion, and inserts conversions where operands stand otherwise. Conversions are the only place where
// collectives come from. Handles (Value) are small and only valid with their recorder.

#include <initializer_list>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "core/parameter.h"
#include "core/tape.h"

namespace capstan {

/// A handle on a tensor of the tape under record; absent when id is kNoTensor.
struct Value {
  TensorId id = kNoTensor;
  bool present() const { return id != kNoTensor; }
};

struct RecorderOptions {
  bool training = true;  ///< false: nothing is kept for a backward pass
  DType activations = DType::f32;
  /// How the residual stream of a model is placed: Shard(1) on tp is sequence parallelism. See Recorder::as_stream.
  Placements stream{};
  /// For each region (layer) the chunk of the pipeline on which it lies; none: all on one. See Recorder::begins_chunk.
  std::vector<int> chunk_of_region{};
};

class Recorder {
 public:
  Recorder(const Mesh& mesh, PersistentSpace& persistent, const ParameterSet& parameters, RecorderOptions options);

  /// The persistent tensor of this name as an operand.
  Value persistent(const std::string& name);
  /// The parameter as the forward pass reads it (the working copy where precision has one).
  Value parameter(int index);

  std::vector<Value> record(OpPtr op, const std::vector<Value>& inputs, Purpose purpose = Purpose::activation);
  /// One-output ops.
  Value record_one(OpPtr op, const std::vector<Value>& inputs, Purpose purpose = Purpose::activation);
  /// Outputs that already have a place: persistent tensors the op writes or adds to. Absent entries get a new tensor.
  std::vector<Value> record_into(OpPtr op, const std::vector<Value>& inputs, const std::vector<Value>& outputs,
                                 Accumulate accumulate, Purpose purpose = Purpose::activation);
  /// `value` in other placements: inserts what conversion is needed, or returns it as it is.
  Value convert(Value value, Axis axis, Placement to);
  /// The same into a tensor that has its place already (a view of the same memory in other placements).
  void convert_into(Value value, Axis axis, Placement to, Value target);
  /// `value` as it joins the residual stream: sums still owed are formed, and it is sharded as the stream is. The
  /// annotation by which a model, written once, is sequence parallel.
  Value as_stream(Value value);
  /// The way back: `value` whole on the axes over which the stream is sharded, for readers that want it so whatever
  /// their weights (keys and values that every rank computes).
  Value from_stream(Value value);

  const TensorSpec& spec(Value value) const { return tape_.at(value.id).spec; }
  const Shape& shape(Value value) const { return spec(value).shape; }
  bool training() const { return options_.training; }
  DType activations() const { return options_.activations; }
  const Mesh& mesh() const { return tape_.mesh; }

  void set_part(Part part, int level = 0) { part_ = part, level_ = level; }
  /// A layer, or -1 for what comes before the first or after the last: it lies on the chunk recorded so far.
  void set_region(int region);
  void set_chunk(int chunk) { chunk_ = chunk; }
  /// Whether what is recorded into persistent tensors from here on, conversions over dp and rep among it, runs beside
  /// the computation.
  void set_lane(bool lane) { lane_ = lane; }
  /// Whether this region is the first of its chunk and not the first of all: what enters it crosses between stages, so
  /// a model makes it one tensor.
  bool begins_chunk(int region) const;
  /// A prefix for the names of tensors recorded from here on.
  void set_scope(std::string scope) { scope_ = std::move(scope); }

  Tape& tape() { return tape_; }
  const ParameterSet& parameters() const { return parameters_; }
  PersistentSpace& persistent_space() { return persistent_; }
  /// Index of the parameter behind this tensor, or -1.
  int parameter_of(TensorId id) const;

 private:
  void place_on_axis(const Op& op, Axis axis, std::vector<Value>& inputs, std::vector<Placements>& out);
  double price_of(const Signature& signature, Axis axis, const std::vector<Value>& inputs) const;
  void take_placements(TensorId persistent, const Op& op, const Placements& placed);
  TensorId add_tensor(const std::string& name, const TensorSpec& spec, Purpose purpose);

  Tape tape_;
  PersistentSpace& persistent_;
  const ParameterSet& parameters_;
  RecorderOptions options_;
  std::vector<TensorId> tensor_of_persistent_;
  std::vector<int> parameter_of_tensor_;
  std::map<std::tuple<TensorId, Axis, int>, TensorId> converted_;  ///< conversions are made once and shared
  Part part_ = Part::forward;
  int level_ = 0;
  int region_ = -1;
  int chunk_ = 0;
  bool lane_ = false;
  std::string scope_;
};

}  // namespace capstan
