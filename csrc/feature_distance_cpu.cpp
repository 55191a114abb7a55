#include "feature_distance.h"

namespace genet {
namespace {

// Calls element(lane, d) for every feature d of a face, in blocks of kLanes that the compiler turns into
// vectors.
template <typename Element>
GENET_HD void for_each_feature(int64_t width, const Element& element) {
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) element(lane, d + lane);
  }
  for (int lane = 0; d + lane < width; ++lane) element(lane, d + lane);
}

template <Distance kind, typename T>
GENET_HD void elementwise_faces(const FeatureDistanceArgs<T>& args, int64_t begin, int64_t end) {
  for (int64_t face = begin; face < end; ++face) {
    const T* pred = args.pred + face * args.width;
    const T* target = args.target + face * args.width;
    T* grad = args.grad + face * args.width;
    T loss[kLanes] = {};
    for_each_feature(args.width, [&](int lane, int64_t d) __attribute__((always_inline)) {
      const T residual = pred[d] - target[d];
      loss[lane] += args.weight[d] * distance_rho<kind>(residual, args.delta);
      grad[d] = args.weight[d] * distance_slope<kind>(residual, args.delta);
    });
    args.loss[face] = sum_lanes(loss);
  }
}

template <typename T>
GENET_HD void cosine_faces(const FeatureDistanceArgs<T>& args, int64_t begin, int64_t end) {
  for (int64_t face = begin; face < end; ++face) {
    const T* pred = args.pred + face * args.width;
    const T* target = args.target + face * args.width;
    T* grad = args.grad + face * args.width;
    T dot[kLanes] = {}, pred_sq[kLanes] = {}, target_sq[kLanes] = {};
    for_each_feature(args.width, [&](int lane, int64_t d) __attribute__((always_inline)) {
      dot[lane] += args.weight[d] * pred[d] * target[d];
      pred_sq[lane] += args.weight[d] * pred[d] * pred[d];
      target_sq[lane] += args.weight[d] * target[d] * target[d];
    });
    const CosineFactors<T> factors = cosine_factors(sum_lanes(dot), sum_lanes(pred_sq), sum_lanes(target_sq));
    args.loss[face] = factors.loss;
    for_each_feature(args.width, [&](int, int64_t d) __attribute__((always_inline)) {
      grad[d] = args.weight[d] * (factors.on_pred * pred[d] - factors.on_target * target[d]);
    });
  }
}

template <typename T>
GENET_HD void faces(const FeatureDistanceArgs<T>& args, int64_t begin, int64_t end) {
  switch (args.kind) {
    case Distance::kSquared: return elementwise_faces<Distance::kSquared>(args, begin, end);
    case Distance::kL1: return elementwise_faces<Distance::kL1>(args, begin, end);
    case Distance::kHuber: return elementwise_faces<Distance::kHuber>(args, begin, end);
    case Distance::kCosine: return cosine_faces(args, begin, end);
  }
}

// GCC clones no templates, so one plain function per dtype.
GENET_SIMD void faces_f32(const void* args, int64_t begin, int64_t end) {
  faces(*static_cast<const FeatureDistanceArgs<float>*>(args), begin, end);
}
GENET_SIMD void faces_f64(const void* args, int64_t begin, int64_t end) {
  faces(*static_cast<const FeatureDistanceArgs<double>*>(args), begin, end);
}

// Below about this many elements a thread costs more to wake than it saves.
constexpr int64_t kElementsPerThread = 32768;

int64_t faces_per_thread(int64_t width) { return kElementsPerThread / (width + 1) + 1; }

}  // namespace

template <>
void feature_distance_cpu(const FeatureDistanceArgs<float>& args, void*) {
  parallel_for_faces(args.batch, faces_per_thread(args.width), faces_f32, &args);
}

template <>
void feature_distance_cpu(const FeatureDistanceArgs<double>& args, void*) {
  parallel_for_faces(args.batch, faces_per_thread(args.width), faces_f64, &args);
}

}  // namespace genet
