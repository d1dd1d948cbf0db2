#pragma once
// The part of NCCL's API that Capstan calls, on a machine without devices: ranks are threads of one process that meet
// in its memory. Calls are put into streams like kernels; which streams, the test says (Switches::enqueue). Values and
// meanings are NCCL's, also where they hurt: a maximum of floating numbers drops NaN, bf16 sums are rounded at every
// hop, a communicator that is not blocking has queued nothing until it was asked often enough, the first message from a
// rank to another holds up the hosts of both until the other has made its call too, who ends a communicator waits until
// no graph holds a call of it. Stricter than NCCL: calls that do not match among ranks, messages of other lengths and
// waits without end become errors that say who did what.

#include <atomic>
#include <climits>
#include <cstddef>
#include <functional>

#include "cuda_runtime_api.h"

#define NCCL_MAJOR 2
#define NCCL_MINOR 28
#define NCCL_PATCH 9
#define NCCL_VERSION(x, y, z) ((x)*10000 + (y)*100 + (z))
#define NCCL_VERSION_CODE NCCL_VERSION(2, 28, 9)
#define NCCL_UNIQUE_ID_BYTES 128
#define NCCL_SPLIT_NOCOLOR -1
#define NCCL_CONFIG_UNDEF_INT INT_MIN

struct ncclComm;
using ncclComm_t = ncclComm*;
struct ncclUniqueId {
  char internal[NCCL_UNIQUE_ID_BYTES];
};

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
  ncclNumResults = 8
};
enum ncclRedOp_t { ncclSum = 0, ncclProd = 1, ncclMax = 2, ncclMin = 3, ncclAvg = 4 };
enum ncclDataType_t {
  ncclInt8 = 0,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclUint32 = 3,
  ncclInt64 = 4,
  ncclUint64 = 5,
  ncclFloat16 = 6,
  ncclFloat32 = 7,
  ncclFloat64 = 8,
  ncclBfloat16 = 9
};

struct ncclConfig_t {
  size_t size;
  unsigned magic;
  int blocking, minCTAs, maxCTAs, splitShare;
};
#define NCCL_CONFIG_INITIALIZER                                                                            \
  {                                                                                                        \
    sizeof(ncclConfig_t), 0xcafebeef, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, \
        NCCL_CONFIG_UNDEF_INT                                                                              \
  }

ncclResult_t ncclGetVersion(int* version);
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config);
ncclResult_t ncclCommSplit(ncclComm_t comm, int colour, int key, ncclComm_t* made, ncclConfig_t* config);
ncclResult_t ncclCommFinalize(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error);
const char* ncclGetErrorString(ncclResult_t result);
const char* ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclCommRegister(ncclComm_t comm, void* memory, size_t bytes, void** handle);
ncclResult_t ncclCommDeregister(ncclComm_t comm, void* handle);
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int to, ncclComm_t comm,
                      cudaStream_t stream);
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int from, ncclComm_t comm, cudaStream_t stream);

namespace emulated_nccl {

/// Set before ranks start.
struct Switches {
  /// Puts work at the end of a stream.
  cudaError_t (*enqueue)(cudaStream_t stream, std::function<void()> work) = nullptr;
  /// A send is done when its message has been copied. For streams that run at once, on the rank's own thread; else a
  /// send holds up its stream until the receiver has come, as a long message does on a device.
  bool buffered_sends = false;
  double hang_seconds = 30;  ///< a wait of this length is an error of the communicator
  /// Whether a stream is captured. A communicator does not end while a graph lives that holds calls of it, as NCCL's.
  bool (*captures)(cudaStream_t stream) = nullptr;
  /// While it is true, graphs hold calls of all communicators.
  const std::atomic<bool>* graphs = nullptr;
  int version = NCCL_VERSION_CODE;  ///< of the library that is found
};
Switches& switches();

/// Communicators and registrations that nobody has given back; communicators that were aborted by themselves.
struct Alive {
  int communicators = 0, registrations = 0, aborted_alone = 0;
};
Alive alive();

}  // namespace emulated_nccl
