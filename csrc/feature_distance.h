// feature_distance: how far each face's rendered features are from the photograph's, and the gradient, in one
// pass.
//
//   loss[b] = sum_d weight[d] rho(pred[b,d] - target[b,d])          grad[b,d] = d loss[b] / d pred[b,d]
//   cosine:   loss[b] = 1 - <pred, target> / (|pred| |target|),     weight inside every inner product
#pragma once

#include "host_device.h"

namespace genet {

enum class Distance : int { kSquared, kL1, kHuber, kCosine };

template <typename T>
struct FeatureDistanceArgs {
  const T* pred;    // [B, D]
  const T* target;  // [B, D]
  const T* weight;  // [D], >= 0
  T* loss;          // [B] out
  T* grad;          // [B, D] out
  int64_t batch;    // B
  int64_t width;    // D
  Distance kind;
  T delta;  // where Huber's parabola becomes a line, > 0
};

// The penalty of one residual. A NaN residual gives NaN, here and in distance_slope.
template <Distance kind, typename T>
GENET_HD T distance_rho(T residual, T delta) {
  const T size = residual < 0 ? -residual : residual;
  if (kind == Distance::kL1) return size;
  if (kind == Distance::kHuber && !(size <= delta)) return delta * (size - T(0.5) * delta);
  return T(0.5) * residual * residual;
}

// Its derivative.
template <Distance kind, typename T>
GENET_HD T distance_slope(T residual, T delta) {
  if (kind == Distance::kL1) return residual > 0 ? T(1) : residual < 0 ? T(-1) : residual;
  if (kind == Distance::kHuber) return residual > delta ? delta : residual < -delta ? -delta : residual;
  return residual;
}

// From a face's three weighted inner products to its loss and to the two factors of its gradient,
//   grad[d] = weight[d] (on_pred pred[d] - on_target target[d]).
template <typename T>
struct CosineFactors {
  T loss, on_pred, on_target;
};

template <typename T>
GENET_HD CosineFactors<T> cosine_factors(T dot, T pred_sq, T target_sq) {
  if (pred_sq == 0 || target_sq == 0) return {T(1), T(0), T(0)};  // a zero vector has no direction to turn
  const T norms = std::sqrt(pred_sq) * std::sqrt(target_sq);
  const T cosine = dot / norms;
  return {T(1) - cosine, cosine / pred_sq, T(1) / norms};
}

// T is float or double. `stream` is a cudaStream_t; the CPU ignores it.
template <typename T>
void feature_distance_cpu(const FeatureDistanceArgs<T>& args, void* stream);
template <typename T>
void feature_distance_cuda(const FeatureDistanceArgs<T>& args, void* stream);

}  // namespace genet
