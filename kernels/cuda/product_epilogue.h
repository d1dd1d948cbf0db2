#pragma once
// What a matrix product is called, whether it can be, and what of it cuBLASLt's epilogues do: facts of the shape alone.
// An epilogue is taken only where it is the very function that our own kernels compute.

#include <cublasLt.h>

#include <string>

#include "kernels/matmul.h"

namespace capstan::kernels::cuda {

/// "m64 n32 k16 NT bf16 f32 bias accumulate": all that choosing an algorithm goes by.
std::string name_of_product(const MatmulShape& s);

/// Throws std::invalid_argument for dtypes, extents and epilogues that no product here has.
void check_product(const MatmulShape& s);

/// Whether the library's epilogue is the very function: its gelu is the tanh form, of which it does not say how it is
/// rounded, so it serves where C is rounded to 16 bits anyway.
bool in_epilogue(ActivationKind kind, DType c);

/// Of a shape that trains: the same product without what training asks of it.
MatmulShape without_training(MatmulShape s);

/// The library's gelu is the tanh form in 16 bits; the rows of its aux matrix begin at multiples of 8 elements. Relu's
/// aux matrix is bits. A gradient of a bias has the type of C.
bool has_training_epilogue(const MatmulShape& s);

cublasLtEpilogue_t epilogue_of(const MatmulShape& s);

}  // namespace capstan::kernels::cuda
