#pragma once
// What the parts of the cpu backend offer to its table (kernels/backend.h: cpu_backend). The vector kernels exist once
// per instruction set, in a namespace of that name; each set fills its share of the table. Products come from
// cpu/matmul.h.

#include "kernels/backend.h"

namespace capstan::kernels {

namespace sse4 {
void fill_vector_kernels(Backend& table);     // all but products and attention (cpu/vector/table.cpp)
void fill_attention_kernels(Backend& table);  // attention and its backward (cpu/vector/attention*.cpp)
}  // namespace sse4
namespace avx2 {
void fill_vector_kernels(Backend& table);
void fill_attention_kernels(Backend& table);
}  // namespace avx2
namespace avx512 {
void fill_vector_kernels(Backend& table);
void fill_attention_kernels(Backend& table);
}  // namespace avx512

}  // namespace capstan::kernels
