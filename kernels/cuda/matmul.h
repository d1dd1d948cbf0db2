#pragma once
// Matrix products by cuBLASLt: bias and, where the library has the very function, activation in the product's epilogue;
// sums of bf16 and f16 in f32, also where C is f32 and added to. What only training asks of an epilogue is taken from
// the library where fuses() says so and it was the faster, else the product runs apart from our own kernel. When a
// product is prepared, the library's candidates are timed on real memory of its size, or the choice is taken from what
// is remembered (kernels/product_choices.h); run() looks up nothing, allocates nothing and may be captured. Two
// algorithms are kept: one for operands on 16-byte boundaries, one for any. Products of one backend are run from one
// thread.

#include <functional>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/product_choices.h"

namespace capstan::kernels::cuda {

struct ProductOptions {
  bool tf32 = false;           ///< f32 operands may be cut to TF32's 10 bits of mantissa: eight times as fast on A100
  size_t workspace_bytes = 0;  ///< of each product; 0: 32 MiB from compute capability 9 on, else 16 MiB
  bool time = true;            ///< false: the library's first candidate
  std::shared_ptr<ProductChoices> choices;  ///< null: none are remembered or shared
};

/// Whether the library has an epilogue for what only training asks of this shape. Not for keeps_input, although it has
/// one: its gelu sees the sums before they are rounded, so a plan that makes the activation again would have other
/// bits.
bool fuses(const MatmulShape& shape);

/// Fills table.prepare_matmul and fuses. Takes cast, copy, fill, add, activation, bias_gradient and their backward from
/// the table as it is now. The device outlives it.
void add_products(Backend& table, DeviceRuntime& device, const ProductOptions& options = {});

/// What choices are kept apart by: "NVIDIA A100-SXM4-80GB 8.0 108 cublasLt 130100".
std::string product_hardware(const DeviceFacts& facts);

}  // namespace capstan::kernels::cuda
