// Host-side helpers of the .cu files.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace genet {

// Throws if the launch of `kernel` was refused; says nothing of how the kernel then runs (that is
// asynchronous).
inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(kernel) + ": CUDA launch failed: " + cudaGetErrorString(error));
  }
}

constexpr int kWarp = 32;

}  // namespace genet
