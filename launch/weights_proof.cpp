#include "launch/weights_proof.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/generation_program.h"
#include "io/weights/element_cast.h"
#include "kernels/philox.h"
#include "launch/training_setup.h"

namespace capstan {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{8} << 20;

int64_t rows_at_once(const RowShape& shape, DType dtype) {
  const uint64_t row = static_cast<uint64_t>(std::max<int64_t>(1, shape.length)) * bytes_of(dtype);
  return std::max<int64_t>(1, static_cast<int64_t>(kBlockBytes / row));
}

/// Rows of a parameter in the type `to`.
class RowReader {
 public:
  RowReader(ParameterSource& source, const Parameter& parameter, DType to)
      : source_(source), name_(parameter.name), shape_(row_shape(parameter.logical_shape())), to_(to) {}

  const std::vector<char>& read(int64_t first, int64_t count) {
    const DType from = source_.dtype(name_);
    const size_t elements = static_cast<size_t>(count * shape_.length);
    stored_.resize(elements * bytes_of(from));
    source_.read(name_, first, count, stored_.data());
    if (from == to_) return stored_;
    cast_.resize(elements * bytes_of(to_));
    cast_elements(stored_.data(), from, cast_.data(), to_, elements);
    return cast_;
  }

 private:
  ParameterSource& source_;
  const std::string& name_;
  RowShape shape_;
  DType to_;
  std::vector<char> stored_, cast_;
};

void fill(GenerationProgram& program, ParameterSource& source) {
  for (size_t i = 0; i < program.program().parameters().size(); ++i) {
    const Parameter& parameter = program.program().parameters().at(static_cast<int>(i));
    const RowShape shape = row_shape(parameter.logical_shape());
    RowReader reader(source, parameter, program.dtype());
    char* to = static_cast<char*>(program.program().address(parameter.name));
    const int64_t at_once = rows_at_once(shape, program.dtype());
    for (int64_t first = 0; first < shape.rows; first += at_once) {
      const std::vector<char>& rows = reader.read(first, std::min(at_once, shape.rows - first));
      std::copy(rows.begin(), rows.end(), to + static_cast<size_t>(first * shape.length) * bytes_of(program.dtype()));
    }
  }
}

/// Both programs' worth of running on the same tokens, one after the other in the same memory.
class Runner {
 public:
  Runner(const DecoderConfig& model, int threads)
      : self_(self_communicator()),
        device_(on_host(threads), *self_),
        groups_(mesh_, *self_, device_),
        program_((set_threads(threads), mesh_), groups_.device(), model, Precision::fp32) {
    program_.allocate();
  }

  std::vector<std::vector<float>> run(ParameterSource& source, const std::vector<int32_t>& tokens) {
    fill(program_, source);
    program_.forget();
    std::vector<std::vector<float>> logits;
    for (const int32_t token : tokens) logits.push_back(program_.decode(token));
    return logits;
  }

 private:
  static TrainConfig on_host(int threads) {
    TrainConfig train;
    train.device = TrainConfig::Device::cpu;
    train.threads = threads;
    return train;
  }
  void set_threads(int threads) { omp_set_num_threads(threads_for(on_host(threads), *self_)); }
  std::unique_ptr<Communicator> self_;
  RankDevice device_;
  Mesh mesh_;
  RankGroups groups_;
  GenerationProgram program_;
};

std::vector<int32_t> proof_tokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(
        static_cast<int32_t>(philox_word(1, 0x70726f6f, static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocabulary)));
  return tokens;
}

uint64_t bytes_in_fp32(const ParameterSet& parameters, bool of_layers) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    const bool in_layer = parameter.name.rfind("layers.", 0) == 0;
    if (in_layer == of_layers) bytes += static_cast<uint64_t>(element_count(parameter.shape)) * 4;
  }
  return bytes;
}

/// Log of the sum of exponentials, of finite numbers.
double log_sum(const std::vector<float>& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(x - most);
  return most + std::log(sum);
}

void compare_logits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b,
                    WeightsProof& proof) {
  for (size_t t = 0; t < a.size(); ++t) {
    const auto finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(a[t].begin(), a[t].end(), finite) || !std::all_of(b[t].begin(), b[t].end(), finite)) {
      proof.finite = false;
      return;
    }
    const double sum_a = log_sum(a[t]), sum_b = log_sum(b[t]);
    double divergence = 0.0;
    for (size_t i = 0; i < a[t].size(); ++i) {
      proof.largest_difference = std::max(proof.largest_difference, std::abs(double{a[t][i]} - double{b[t][i]}));
      const double p = a[t][i] - sum_a;
      divergence += std::exp(p) * (p - (b[t][i] - sum_b));
    }
    proof.divergence += std::max(0.0, divergence) / static_cast<double>(a.size());
  }
}

void compare_bits(const ParameterSet& parameters, ParameterSource& source, ParameterSource& written,
                  const std::function<void(uint64_t, uint64_t)>& progress, WeightsProof& proof) {
  DigestStream ours, theirs;
  uint64_t done = 0, total = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    total += static_cast<uint64_t>(element_count(parameter.logical_shape())) * bytes_of(written.dtype(parameter.name));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters.at(static_cast<int>(i));
    const RowShape shape = row_shape(parameter.logical_shape());
    const DType dtype = written.dtype(parameter.name);
    RowReader before(source, parameter, dtype), after(written, parameter, dtype);
    const int64_t at_once = rows_at_once(shape, dtype);
    bool same = true;
    for (int64_t first = 0; first < shape.rows; first += at_once) {
      const int64_t count = std::min(at_once, shape.rows - first);
      const std::vector<char>&a = before.read(first, count), &b = after.read(first, count);
      same = same && a == b;
      ours.update(a.data(), a.size());
      theirs.update(b.data(), b.size());
      progress(done += a.size(), total);
    }
    if (!same) proof.different.push_back(parameter.name);
    proof.elements += static_cast<uint64_t>(shape.rows * shape.length);
  }
  proof.parameters = parameters.size();
  proof.source = ours.value(), proof.written = theirs.value();
}

/// What rounding to the written type may cost: nothing when nothing was rounded.
double divergence_allowed(const ParameterSet& parameters, const ParameterSource& source,
                          const ParameterSource& written) {
  double allowed = 1e-9;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters.at(static_cast<int>(i)).name;
    if (source.dtype(name) == written.dtype(name)) continue;
    allowed = std::max(allowed, written.dtype(name) == DType::bf16  ? 2e-2
                                : written.dtype(name) == DType::f16 ? 1e-3
                                                                    : 1e-9);
  }
  return allowed;
}

}  // namespace

std::string WeightsProof::problem() const {
  if (!different.empty())
    return fmt::format("{} of {} parameters are not what was to be written, the first is {}", different.size(),
                       parameters, different.front());
  if (!finite) return "the model gives logits that are not finite";
  return fmt::format("the written model diverges by {} nats, {} is allowed", divergence, allowed_divergence);
}

WeightsProof prove_weights(const DecoderConfig& model, const ParameterSet& parameters, ParameterSource& source,
                           ParameterSource& written, const ProofOptions& options,
                           const std::function<void(uint64_t, uint64_t)>& progress) {
  WeightsProof proof;
  compare_bits(parameters, source, written, progress, proof);
  proof.layers = model.layers;
  proof.allowed_divergence = divergence_allowed(parameters, source, written);
  if (!proof.different.empty()) return proof;
  const uint64_t ends = bytes_in_fp32(parameters, false), layers = bytes_in_fp32(parameters, true);
  const uint64_t each = std::max<uint64_t>(1, layers / static_cast<uint64_t>(model.layers));
  if (ends + each > options.memory) return proof;
  DecoderConfig run = model;
  run.layers = std::min<int64_t>(model.layers, static_cast<int64_t>((options.memory - ends) / each));
  if (run.query_layer && run.layers < model.layers) return proof;  // the last layer is of another kind
  run.deep_alpha = model.alpha();
  if (!model.has_table_of_context()) {
    run.rotary_original_context = model.original_context();
    run.context = std::min<int64_t>(run.context, 256);
  }
  const std::vector<int32_t> tokens = proof_tokens(std::min(options.tokens, run.context), run.vocabulary);
  Runner runner(run, options.threads);
  compare_logits(runner.run(source, tokens), runner.run(written, tokens), proof);
  proof.layers_run = run.layers;
  proof.tokens = static_cast<int64_t>(tokens.size());
  return proof;
}

std::vector<std::vector<float>> logits_of(const DecoderConfig& model, ParameterSource& source,
                                          const std::vector<int32_t>& tokens, int threads) {
  return Runner(model, threads).run(source, tokens);
}

}  // namespace capstan
