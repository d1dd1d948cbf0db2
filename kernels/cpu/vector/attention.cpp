#include "kernels/backend.h"
#include "kernels/cpu/vector/attention_table.h"

namespace capstan::kernels::CAPSTAN_ISA {

void fill_attention_kernels(Backend& table);
void fill_attention_kernels(Backend& table) {
  table.attention_scratch = attention_scratch;
  table.attention = attention;
  table.attention_backward_scratch = attention_backward_scratch;
  table.attention_backward = attention_backward;
}

}  // namespace capstan::kernels::CAPSTAN_ISA
