#pragma once
// libcudnn, loaded by name when it is first asked for. cudnn_library.cpp defines the few functions of cudnn.h that the
// frontend calls and passes them on, so nothing links libcudnn and a machine without it starts all the same.

#include <string>

namespace capstan::kernels::cuda {

/// Whether libcudnn is there with all that is called; else why not.
bool load_cudnn(std::string& why);

}  // namespace capstan::kernels::cuda
