// What is called of libnccl, passed on to the library once it is loaded (kernels/cuda/cuda_library.h): a job of one GPU
// does not need it.

#include <nccl.h>

#include "kernels/cuda/cuda_library.h"

namespace capstan {
namespace {

const kernels::cuda::CudaLibrary& libnccl() {
  static const kernels::cuda::CudaLibrary library("libnccl.so.2");
  return library;
}

}  // namespace
}  // namespace capstan

using capstan::libnccl;

CAPSTAN_LOADED(libnccl, ncclResult_t, ncclGetVersion, (int* version), (version))
CAPSTAN_LOADED(libnccl, const char*, ncclGetErrorString, (ncclResult_t result), (result))
CAPSTAN_LOADED(libnccl, const char*, ncclGetLastError, (ncclComm_t comm), (comm))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclGetUniqueId, (ncclUniqueId * id), (id))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommInitRankConfig,
               (ncclComm_t * comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config),
               (comm, ranks, id, rank, config))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommSplit,
               (ncclComm_t comm, int colour, int key, ncclComm_t* made, ncclConfig_t* config),
               (comm, colour, key, made, config))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommFinalize, (ncclComm_t comm), (comm))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommDestroy, (ncclComm_t comm), (comm))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommAbort, (ncclComm_t comm), (comm))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t* error), (comm, error))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommRegister,
               (const ncclComm_t comm, void* memory, size_t bytes, void** handle), (comm, memory, bytes, handle))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclCommDeregister, (const ncclComm_t comm, void* handle), (comm, handle))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclGroupStart, (), ())
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclGroupEnd, (), ())
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclAllReduce,
               (const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                cudaStream_t stream),
               (in, out, count, type, op, comm, stream))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclReduceScatter,
               (const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                cudaStream_t stream),
               (in, out, count, type, op, comm, stream))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclAllGather,
               (const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream),
               (in, out, count, type, comm, stream))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclBroadcast,
               (const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                cudaStream_t stream),
               (in, out, count, type, root, comm, stream))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclSend,
               (const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream),
               (in, count, type, peer, comm, stream))
CAPSTAN_LOADED(libnccl, ncclResult_t, ncclRecv,
               (void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream),
               (out, count, type, peer, comm, stream))
