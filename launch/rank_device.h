#pragma once
// RankDevice: what a rank computes on: the kernels of its host, or a GPU of its own. Ranks of one host take its GPUs in
// turn. train.device = "auto" is the GPU where every rank has one and the numbers asked for run there, else the host.

#include <memory>
#include <string>

#include "core/communicator.h"
#include "core/config/run_config.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/product_choices.h"

namespace capstan {

/// The kernels that a plan is made for where nothing runs: those of the host, whatever the device.
kernels::Backend planning_backend(const TrainConfig& train);

/// Of a finished run, for reading its weights here, whatever it was trained on: where there is no GPU, on the host, and
/// fp16 in fp32.
TrainConfig for_reading(TrainConfig train, bool gpus);
/// Whether every rank has a GPU. Collective.
bool gpus_on_all(Communicator& world);

class RankDevice {
 public:
  /// Collective. Throws a JointError(config) when the device asked for is not there on some rank.
  RankDevice(const TrainConfig& train, Communicator& world);

  const kernels::Backend& backend() const { return backend_; }
  /// Null on the host.
  kernels::DeviceRuntime* runtime() const { return runtime_.get(); }
  bool captures() const { return captures_; }
  /// For people: "cpu kernels (avx2)", "NVIDIA A100-SXM4-80GB (8.0), driver 13.0".
  std::string describe() const;
  /// Why a GPU that is there is not used, or what else the user should know; empty: nothing.
  const std::string& note() const { return note_; }

  /// After the plans are made: all ranks run the algorithms that rank 0 chose, and this host remembers them.
  /// Collective.
  void agree_on_products(Communicator& world);

  /// FLOP/s of dense products of this type that the GPU's maker states; 0 where that is not known, and on the host.
  double published_peak(DType dtype) const;
  /// FLOP/s that dense products of this type can reach: the device's published peak, else measured now. `source` says
  /// which.
  double product_rate(DType dtype, std::string& source) const;

 private:
  void open_gpu(const TrainConfig& train, Communicator& world);
  void share(Communicator& world, const std::string& place);

  std::unique_ptr<kernels::DeviceRuntime> runtime_;  ///< outlives the table
  std::shared_ptr<kernels::ProductChoices> choices_;
  kernels::Backend backend_;
  bool tf32_ = false, captures_ = true, first_of_host_ = true;
  std::string note_;
};

}  // namespace capstan
