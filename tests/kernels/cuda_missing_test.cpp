// label: cpu, links: capstan_cuda
// Where there is no GPU, or no toolkit was there to build with, opening a device says so in words a user can act on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_device.h"

namespace capstan::kernels::testing {
namespace {

TEST(CudaMissing, OpeningADeviceSaysWhatIsMissing) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "there is a device";
  try {
    open_cuda_device(0);
    FAIL() << "there is no device to open";
  } catch (const std::exception& error) {
    EXPECT_THAT(error.what(), ::testing::AnyOf(::testing::HasSubstr("driver"), ::testing::HasSubstr("toolkit")));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("cpu")) << "and what to do instead";
  }
}

}  // namespace
}  // namespace capstan::kernels::testing
