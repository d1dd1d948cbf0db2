#include "core/error.h"
#include "parallel/nccl_session.h"

namespace capstan {

struct NcclState {};

NcclSession::NcclSession(kernels::DeviceRuntime&, const NcclKernels&, NcclOptions) {
  throw Error(ExitCode::config,
              "ranks on GPUs: wanted NCCL, this build has none; build where nccl.h and libnccl are (Debian: "
              "libnccl-dev of NVIDIA's repository), or train with one rank or with train.device = \"cpu\"");
}
NcclSession::~NcclSession() = default;
bool NcclSession::available() { return false; }
std::string NcclSession::version() { return {}; }
void NcclSession::require() {}
std::unique_ptr<Communicator> NcclSession::group(Communicator&, kernels::Stream, NcclGroupOptions) { return nullptr; }
void NcclSession::register_memory(void*, size_t) {}
void NcclSession::forget_memory(void*) {}
size_t NcclSession::bytes() const { return 0; }
void NcclSession::warm_up(Communicator&, bool) {}
std::string NcclSession::failure() const { return {}; }
void prepare_nccl_environment() {}

}  // namespace capstan
