// A block per face, a thread per parameter. The face's offset from the prior mean is shared, because every
// parameter's gradient needs all of it and the parameters are overwritten.
#include "adam_step.h"
#include "cuda_launch.h"

namespace genet {
namespace {

constexpr int kMaxThreads = 256;

template <typename T>
__global__ void adam_step_kernel(AdamStepArgs<T> args) {
  extern __shared__ double shared[];  // double: aligned for either T
  __shared__ AdamCoefficients<T> coefficients;
  T* offset = reinterpret_cast<T*>(shared);  // [P], where there is a precision

  const int64_t face = blockIdx.x;
  if (!args.active[face]) return;  // the whole block
  const int64_t row = face * args.width;
  if (threadIdx.x == 0) {  // two powers in double precision: once per face, not once per parameter
    coefficients = adam_coefficients<T>(args.lr, args.beta1, args.beta2, args.eps, ++args.step[face]);
  }
  if (args.prior_precision) {
    for (int64_t k = threadIdx.x; k < args.width; k += blockDim.x) {
      offset[k] = args.params[row + k] - args.prior_mean[row + k];
    }
  }
  __syncthreads();
  for (int64_t k = threadIdx.x; k < args.width; k += blockDim.x) {
    const T param = args.params[row + k];
    T gradient = args.grad[row + k];
    if (args.prior_precision) {
      for (int64_t j = 0; j < args.width; ++j)
        gradient += offset[j] * args.prior_precision[j * args.width + k];
    }
    if (args.prior_rate) gradient = add_rate_gradient(gradient, param, args.prior_rate[k]);
    args.params[row + k] = adam_element(param, gradient, args.exp_avg[row + k], args.exp_avg_sq[row + k],
                                        args.lower[k], args.upper[k], coefficients);
  }
}

}  // namespace

template <typename T>
void adam_step_cuda(const AdamStepArgs<T>& args, void* stream) {
  if (args.batch == 0) return;
  const int64_t warps = (args.width + kWarp - 1) / kWarp;
  const int threads = int(warps * kWarp < kMaxThreads ? warps * kWarp : kMaxThreads);
  const size_t shared = args.prior_precision ? args.width * sizeof(T) : 0;
  adam_step_kernel<<<unsigned(args.batch), threads, shared, static_cast<cudaStream_t>(stream)>>>(args);
  check_launch("adam_step_");
}

template void adam_step_cuda(const AdamStepArgs<float>& args, void* stream);
template void adam_step_cuda(const AdamStepArgs<double>& args, void* stream);

}  // namespace genet
