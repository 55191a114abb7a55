// The tensor operators: check, pack, launch. Written once over a Backend, which ops.cpp gives the CPU's
// launchers and ops_cuda.cpp CUDA's:
//
//   struct Backend {
//     Backend(const Tensor& leading);                   makes the tensor's device current while it lives
//     void* stream() const;                             the stream to launch on
//     template <typename T> static void OP(const OpArgs<T>& args, void* stream);      one per operator
//   };
//
// Schemas and argument names: ops.cpp. Meaning of every argument: genet_ext/ops.py.
#pragma once

#include <tuple>

#include "adam_step.h"
#include "check.h"
#include "feature_distance.h"

namespace genet {

inline Distance parse_distance(const std::string& kind, double delta) {
  check(delta > 0, "delta: expected a number above 0, got ", delta);
  if (kind == "squared") return Distance::kSquared;
  if (kind == "l1") return Distance::kL1;
  if (kind == "huber") return Distance::kHuber;
  check(kind == "cosine", "kind: expected one of squared, l1, huber, cosine, got '", kind, "'");
  return Distance::kCosine;
}

// Calls run(T()) with the tensor's C++ type, float or double.
template <typename Run>
void with_scalar_type(const Tensor& tensor, const Run& run) {
  if (tensor.scalar_type() == ScalarType::Float) {
    run(float());
  } else {
    run(double());
  }
}

template <typename Backend>
std::tuple<Tensor, Tensor> feature_distance(const Tensor& pred, const Tensor& target, const Tensor& weight,
                                            std::string kind, double delta) {
  check_leading(pred, "pred", "[B, D]");
  const int64_t batch = pred.size(0), width = pred.size(1);
  check_tensor(target, "target", pred.scalar_type(), {batch, width}, pred);
  check_tensor(weight, "weight", pred.scalar_type(), {width}, pred);
  const Distance distance = parse_distance(kind, delta);

  const Backend backend(pred);
  const Input dense_pred(pred), dense_target(target), dense_weight(weight);
  Tensor loss = torch::stable::new_empty(pred, {batch});
  Tensor grad = torch::stable::new_empty(pred, {batch, width});
  with_scalar_type(pred, [&](auto zero) {
    using T = decltype(zero);
    const FeatureDistanceArgs<T> args{
        dense_pred.data<T>(),
        dense_target.data<T>(),
        dense_weight.data<T>(),
        static_cast<T*>(loss.mutable_data_ptr()),
        static_cast<T*>(grad.mutable_data_ptr()),
        batch,
        width,
        distance,
        T(delta),
    };
    Backend::feature_distance(args, backend.stream());
  });
  return {loss, grad};
}

template <typename Backend>
void adam_step_(const Tensor& params, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const Tensor& step, const Tensor& active, const Tensor& lower, const Tensor& upper, double lr,
                double beta1, double beta2, double eps, std::optional<Tensor> prior_mean,
                std::optional<Tensor> prior_precision, std::optional<Tensor> prior_rate) {
  check_leading(params, "params", "[B, P]");
  const ScalarType dtype = params.scalar_type();
  const int64_t batch = params.size(0), width = params.size(1);
  check(width > 0 && width <= kAdamStepMaxWidth, "params: expected 1 to ", kAdamStepMaxWidth,
        " columns, got ", width);
  check_tensor(grad, "grad", dtype, {batch, width}, params);
  check_tensor(exp_avg, "exp_avg", dtype, {batch, width}, params);
  check_tensor(exp_avg_sq, "exp_avg_sq", dtype, {batch, width}, params);
  check_tensor(step, "step", ScalarType::Int, {batch}, params);
  check_tensor(active, "active", ScalarType::Bool, {batch}, params);
  check_tensor(lower, "lower", dtype, {width}, params);
  check_tensor(upper, "upper", dtype, {width}, params);
  check(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas: expected two numbers in [0, 1), got ",
        beta1, " and ", beta2);
  check(prior_mean.has_value() == prior_precision.has_value(),
        "prior_mean, prior_precision: expected both or neither, got only one");
  if (prior_mean) check_tensor(*prior_mean, "prior_mean", dtype, {batch, width}, params);
  if (prior_precision) check_tensor(*prior_precision, "prior_precision", dtype, {width, width}, params);
  if (prior_rate) check_tensor(*prior_rate, "prior_rate", dtype, {width}, params);

  const Backend backend(params);
  const Input dense_grad(grad), dense_active(active), dense_lower(lower), dense_upper(upper);
  const OptionalInput mean(prior_mean), precision(prior_precision), rate(prior_rate);
  InPlace state[] = {InPlace(params), InPlace(exp_avg), InPlace(exp_avg_sq), InPlace(step)};
  with_scalar_type(params, [&](auto zero) {
    using T = decltype(zero);
    const AdamStepArgs<T> args{
        state[0].data<T>(),
        dense_grad.data<T>(),
        state[1].data<T>(),
        state[2].data<T>(),
        state[3].data<int32_t>(),
        dense_active.data<bool>(),
        dense_lower.data<T>(),
        dense_upper.data<T>(),
        mean.data<T>(),
        precision.data<T>(),
        rate.data<T>(),
        batch,
        width,
        lr,
        beta1,
        beta2,
        eps,
    };
    Backend::adam_step(args, backend.stream());
  });
  for (InPlace& tensor : state) tensor.write_back();
}

}  // namespace genet
