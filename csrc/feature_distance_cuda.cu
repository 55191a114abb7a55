// A warp per face: lane i holds partial sum i (see kLanes), so the sums are added in the CPU's order.
#include "cuda_launch.h"
#include "feature_distance.h"

namespace genet {
namespace {

static_assert(kLanes == kWarp, "a lane is a thread of the warp");
constexpr int kFacesPerBlock = 4;  // 128 threads: enough warps to hide latency, small tail for odd batches

// The pairwise tree of sum_lanes: lane 0 has the sum of all lanes; it is then given to every lane.
template <typename T>
__device__ T warp_sum(T value) {
  for (int half = kWarp / 2; half > 0; half /= 2) value += __shfl_down_sync(0xffffffffu, value, half);
  return __shfl_sync(0xffffffffu, value, 0);
}

template <Distance kind, typename T>
__global__ void feature_distance_kernel(FeatureDistanceArgs<T> args) {
  const int lane = threadIdx.x % kWarp;
  const int64_t face = int64_t(blockIdx.x) * kFacesPerBlock + threadIdx.x / kWarp;
  if (face >= args.batch) return;  // a whole warp at once
  const T* pred = args.pred + face * args.width;
  const T* target = args.target + face * args.width;
  T* grad = args.grad + face * args.width;
  T loss = 0;
  if (kind == Distance::kCosine) {
    T dot = 0, pred_sq = 0, target_sq = 0;
    for (int64_t d = lane; d < args.width; d += kWarp) {
      dot += args.weight[d] * pred[d] * target[d];
      pred_sq += args.weight[d] * pred[d] * pred[d];
      target_sq += args.weight[d] * target[d] * target[d];
    }
    const CosineFactors<T> factors = cosine_factors(warp_sum(dot), warp_sum(pred_sq), warp_sum(target_sq));
    loss = factors.loss;
    for (int64_t d = lane; d < args.width; d += kWarp) {
      grad[d] = args.weight[d] * (factors.on_pred * pred[d] - factors.on_target * target[d]);
    }
  } else {
    for (int64_t d = lane; d < args.width; d += kWarp) {
      const T residual = pred[d] - target[d];
      loss += args.weight[d] * distance_rho<kind>(residual, args.delta);
      grad[d] = args.weight[d] * distance_slope<kind>(residual, args.delta);
    }
    loss = warp_sum(loss);
  }
  if (lane == 0) args.loss[face] = loss;
}

template <Distance kind, typename T>
void launch(const FeatureDistanceArgs<T>& args, cudaStream_t stream) {
  const int64_t blocks = (args.batch + kFacesPerBlock - 1) / kFacesPerBlock;  // grid.x holds 2^31 - 1
  feature_distance_kernel<kind><<<unsigned(blocks), kFacesPerBlock * kWarp, 0, stream>>>(args);
  check_launch("feature_distance");
}

}  // namespace

template <typename T>
void feature_distance_cuda(const FeatureDistanceArgs<T>& args, void* stream) {
  if (args.batch == 0) return;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (args.kind) {
    case Distance::kSquared: return launch<Distance::kSquared>(args, cuda_stream);
    case Distance::kL1: return launch<Distance::kL1>(args, cuda_stream);
    case Distance::kHuber: return launch<Distance::kHuber>(args, cuda_stream);
    case Distance::kCosine: return launch<Distance::kCosine>(args, cuda_stream);
  }
}

template void feature_distance_cuda(const FeatureDistanceArgs<float>& args, void* stream);
template void feature_distance_cuda(const FeatureDistanceArgs<double>& args, void* stream);

}  // namespace genet
