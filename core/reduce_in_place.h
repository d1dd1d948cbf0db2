#pragma once
// Sums over ranks of small or flat persistent tensors, formed where they lie.

#include <string>

#include "core/recorder.h"

namespace capstan {

/// All-reduces in place over every axis on which `name` is Partial: the same memory, in the end named `target`. Nothing
/// where no sum is owed.
void reduce_in_place(Recorder& recorder, const std::string& name, const std::string& target);
inline void reduce_in_place(Recorder& recorder, const std::string& name) {
  reduce_in_place(recorder, name, name + ".reduced");
}

}  // namespace capstan
