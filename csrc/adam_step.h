// adam_step_: the prior's gradient, torch.optim.Adam's update and the bounds, for every active face.
//
//   g  = grad + (params - prior_mean) prior_precision, then the subgradient of prior_rate |params|
//   m' = m + (1 - beta1)(g - m)        v' = beta2 v + (1 - beta2) g^2
//   params' = clamp(params - lr / (1 - beta1^t) m' / (sqrt(v') / sqrt(1 - beta2^t) + eps), lower, upper)
//
// t is the face's own step number, from 1. The optional pointers may be null, mean and precision only
// together.
#pragma once

#include "host_device.h"

namespace genet {

template <typename T>
struct AdamStepArgs {
  T* params;                 // [B, P] in/out
  const T* grad;             // [B, P] of the data term
  T* exp_avg;                // [B, P] in/out, first moment
  T* exp_avg_sq;             // [B, P] in/out, second moment
  int32_t* step;             // [B] in/out, steps taken so far
  const bool* active;        // [B], false leaves the face untouched
  const T* lower;            // [P]
  const T* upper;            // [P]
  const T* prior_mean;       // [B, P] or null
  const T* prior_precision;  // [P, P], symmetric, or null
  const T* prior_rate;       // [P], >= 0, or null
  int64_t batch;             // B
  int64_t width;             // P
  double lr, beta1, beta2, eps;
};

// What one step needs beside the element's own numbers; computed in double, as torch does.
template <typename T>
struct AdamCoefficients {
  T step_size, correction2_sqrt, keep1, beta2, keep2, eps;
};

// The coefficients of step number `step` (from 1).
template <typename T>
GENET_HD AdamCoefficients<T> adam_coefficients(double lr, double beta1, double beta2, double eps,
                                               int32_t step) {
  return {T(lr / (1 - std::pow(beta1, double(step)))),
          T(std::sqrt(1 - std::pow(beta2, double(step)))),
          T(1 - beta1),
          T(beta2),
          T(1 - beta2),
          T(eps)};
}

// Comparisons, not fmin and fmax: a NaN must stay one.
template <typename T>
GENET_HD T project(T value, T lower, T upper) {
  return value < lower ? lower : value > upper ? upper : value;
}

// The gradient with the rate's part added. At 0 it is the subgradient of least size: there a parameter stays
// until the rest of its gradient exceeds the rate.
template <typename T>
GENET_HD T add_rate_gradient(T grad, T param, T rate) {
  if (param > 0) return grad + rate;
  if (param < 0) return grad - rate;
  return grad > rate ? grad - rate : grad < -rate ? grad + rate : grad * 0;
}

// One element's update; returns the new parameter.
template <typename T>
GENET_HD T adam_element(T param, T grad, T& exp_avg, T& exp_avg_sq, T lower, T upper,
                        const AdamCoefficients<T>& c) {
  exp_avg += c.keep1 * (grad - exp_avg);
  exp_avg_sq = c.beta2 * exp_avg_sq + c.keep2 * grad * grad;
  const T denominator = std::sqrt(exp_avg_sq) / c.correction2_sqrt + c.eps;
  return project(param - c.step_size * exp_avg / denominator, lower, upper);
}

// T is float or double. `stream` is a cudaStream_t; the CPU ignores it.
template <typename T>
void adam_step_cpu(const AdamStepArgs<T>& args, void* stream);
template <typename T>
void adam_step_cuda(const AdamStepArgs<T>& args, void* stream);

// The CUDA kernel keeps a face's offset from the prior mean in shared memory.
constexpr int64_t kAdamStepMaxWidth = 4096;

}  // namespace genet
