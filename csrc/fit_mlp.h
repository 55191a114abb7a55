// fit_mlp_: the fused search. For every face, up to n_iter iterations of
//
//   forward    H(x) = W3 a(W2 a(W1 x + b1) + b2) + b3                               a: algebraic SiLU
//   objective  sum_d weight[d] rho(H(x)[d] - target[d]) + 0.5 (x - mean)^T precision (x - mean) + sum_k
//   rate[k] |x[k]| gradient   back through H to x, plus the prior's update     adam_step.h's, with the
//   bounds; then the convergence test
//
// in one call. Here are the arguments and the arithmetic of one element; the loops are in fit_mlp_simd.h
// (CPU) and fit_mlp_tile*.h (CUDA).
//
// What a face gets depends on nothing but its own numbers, because every backend and every tile keeps two
// rules:
//   - a dot product starts from its bias and adds k = 0, 1, 2, ... with fused multiply-adds, one chain;
//   - a sum over a face's elements is kept in kLanes partial sums (host_device.h).
// Both compilers are told not to contract other multiplications and additions, so CPU and CUDA give the same
// bits.
#pragma once

#include "adam_step.h"
#include "feature_distance.h"
#include "host_device.h"

namespace genet {

// Widest layers the kernels accept.
constexpr int kFitMaxParams = 128;
constexpr int kFitMaxHidden = 256;
constexpr int kFitMaxFeatures = 256;

template <typename T>
struct FitMlpArgs {
  T* params;        // [B, P] in/out
  T* exp_avg;       // [B, P] in/out, first moment
  T* exp_avg_sq;    // [B, P] in/out, second moment
  int32_t* step;    // [B] in/out, steps taken so far
  bool* active;     // [B] in/out, false: only the loss is computed
  T* loss;          // [B] out, the objective at the returned params; NaN if it or a gradient was not finite
  const T* target;  // [B, D]
  const T* w1;      // [H1, P]
  const T* b1;      // [H1]
  const T* w2;      // [H2, H1]
  const T* b2;      // [H2]
  const T* w3;      // [D, H2]
  const T* b3;      // [D]
  const T* feature_weight;   // [D], >= 0
  const T* prior_mean;       // [B, P]
  const T* prior_precision;  // [P, P], symmetric
  const T* prior_rate;       // [P], >= 0
  const T* lower;            // [P]
  const T* upper;            // [P]
  int64_t batch;             // B
  int32_t width;             // P
  int32_t hidden1;           // H1
  int32_t hidden2;           // H2
  int32_t features;          // D
  Distance kind;
  T delta;          // Huber's
  double lr;        // of a face's first step
  double lr_decay;  // step t, from 1, uses lr lr_decay^(t - 1)
  double beta1, beta2, eps;
  T tol;  // a step whose largest change is below it is a face's last
  int64_t n_iter;
};

GENET_HD float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
GENET_HD double fused_multiply_add(double a, double b, double c) { return fma(a, b, c); }

// a(x) = x/2 (1 + x / sqrt(1 + x^2)) and its slope. No exp: square root and division are correctly rounded
// everywhere.
template <typename T>
GENET_HD T algebraic_silu(T x, T& slope) {
  const T s = T(1) / std::sqrt(fused_multiply_add(x, x, T(1)));
  const T u = x * s;
  const T half_x = T(0.5) * x;
  slope = fused_multiply_add(T(0.5) * u, fused_multiply_add(s, s, T(1)), T(0.5));
  return fused_multiply_add(half_x, u, half_x);
}

// 0 where value is finite, NaN elsewhere: a sum of these finds one bad element without a branch.
template <typename T>
GENET_HD T finite_probe(T value) {
  return value * T(0);
}

// Where a face is in Adam's schedule. The powers are built by multiplication from step 1 on, so that a search
// that is continued by a second call takes the same steps, to the bit, as one that was not interrupted.
struct FitSchedule {
  double beta1_power, beta2_power;  // beta^t of the last step taken
  double lr;                        // of the next step
};

template <typename T>
GENET_HD FitSchedule fit_schedule(const FitMlpArgs<T>& args, int32_t steps_taken) {
  FitSchedule now{1.0, 1.0, args.lr};
  for (int32_t t = 0; t < steps_taken; ++t) {
    const FitSchedule last = now;
    now.beta1_power *= args.beta1;
    now.beta2_power *= args.beta2;
    now.lr *= args.lr_decay;
    if (now.beta1_power == last.beta1_power && now.beta2_power == last.beta2_power && now.lr == last.lr)
      break;
  }
  return now;
}

// What a step's coefficients are made of.
template <typename T>
struct FitRates {
  T lr, correction1, correction2;
};

// Those of the next step; the schedule moves on.
template <typename T>
GENET_HD FitRates<T> next_rates(const FitMlpArgs<T>& args, FitSchedule& schedule) {
  schedule.beta1_power *= args.beta1;
  schedule.beta2_power *= args.beta2;
  const FitRates<T> rates{T(schedule.lr), T(1.0 - schedule.beta1_power), T(1.0 - schedule.beta2_power)};
  schedule.lr *= args.lr_decay;
  return rates;
}

// Coefficients of the next step; the schedule moves on.
template <typename T>
GENET_HD AdamCoefficients<T> next_step(const FitMlpArgs<T>& args, FitSchedule& schedule) {
  const FitRates<T> rates = next_rates(args, schedule);
  return {rates.lr / rates.correction1, std::sqrt(rates.correction2),
          T(1.0 - args.beta1),          T(args.beta2),
          T(1.0 - args.beta2),          T(args.eps)};
}

GENET_HD constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// How the products of the matrices are computed.
enum class Precision : int {
  kFull,    // in T: the same bits on every backend, for every batch
  kTensor,  // CUDA tensor cores: factors rounded to float16, sums in float32; T must be float
};

// T is float or double. `stream` is a cudaStream_t; the CPU ignores it, and only knows full precision.
template <typename T>
void fit_mlp_cpu(const FitMlpArgs<T>& args, void* stream);

// `workspace` is device memory of fit_mlp_workspace bytes, aligned to 256; its contents do not matter.
template <typename T>
void fit_mlp_cuda(const FitMlpArgs<T>& args, Precision precision, void* workspace, void* stream);
template <typename T>
int64_t fit_mlp_workspace(const FitMlpArgs<T>& args, Precision precision);

}  // namespace genet
