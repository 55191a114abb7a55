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
#include "fit_mlp.h"

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

inline Precision parse_precision(const std::string& precision) {
  if (precision == "full") return Precision::kFull;
  check(precision == "tensor", "precision: expected full or tensor, got '", precision, "'");
  return Precision::kTensor;
}

template <typename Backend>
Tensor fit_mlp_(const Tensor& params, const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& step,
                const Tensor& active, const Tensor& target, const Tensor& w1, const Tensor& b1,
                const Tensor& w2, const Tensor& b2, const Tensor& w3, const Tensor& b3,
                const Tensor& feature_weight, const Tensor& prior_mean, const Tensor& prior_precision,
                const Tensor& prior_rate, const Tensor& lower, const Tensor& upper, std::string kind,
                double delta, double lr, double lr_decay, double beta1, double beta2, double eps, double tol,
                int64_t n_iter, std::string precision) {
  check_leading(params, "params", "[B, P]");
  const ScalarType dtype = params.scalar_type();
  const int64_t batch = params.size(0), width = params.size(1);
  check(width > 0 && width <= kFitMaxParams, "params: expected 1 to ", kFitMaxParams, " columns, got ",
        width);
  check(w1.dim() == 2 && w1.size(0) > 0 && w1.size(0) <= kFitMaxHidden, "w1: expected [H1, ", width,
        "] with H1 from 1 to ", kFitMaxHidden, ", got ", shape_name(w1.sizes()));
  check(w2.dim() == 2 && w2.size(0) > 0 && w2.size(0) <= kFitMaxHidden, "w2: expected [H2, ", w1.size(0),
        "] with H2 from 1 to ", kFitMaxHidden, ", got ", shape_name(w2.sizes()));
  check(w3.dim() == 2 && w3.size(0) > 0 && w3.size(0) <= kFitMaxFeatures, "w3: expected [D, ", w2.size(0),
        "] with D from 1 to ", kFitMaxFeatures, ", got ", shape_name(w3.sizes()));
  const int64_t hidden1 = w1.size(0), hidden2 = w2.size(0), features = w3.size(0);
  check_tensor(exp_avg, "exp_avg", dtype, {batch, width}, params);
  check_tensor(exp_avg_sq, "exp_avg_sq", dtype, {batch, width}, params);
  check_tensor(step, "step", ScalarType::Int, {batch}, params);
  check_tensor(active, "active", ScalarType::Bool, {batch}, params);
  check_tensor(w1, "w1", dtype, {hidden1, width}, params);
  check_tensor(b1, "b1", dtype, {hidden1}, params);
  check_tensor(w2, "w2", dtype, {hidden2, hidden1}, params);
  check_tensor(b2, "b2", dtype, {hidden2}, params);
  check_tensor(w3, "w3", dtype, {features, hidden2}, params);
  check_tensor(b3, "b3", dtype, {features}, params);
  check_tensor(target, "target", dtype, {batch, features}, params);
  check_tensor(feature_weight, "feature_weight", dtype, {features}, params);
  check_tensor(prior_mean, "prior_mean", dtype, {batch, width}, params);
  check_tensor(prior_precision, "prior_precision", dtype, {width, width}, params);
  check_tensor(prior_rate, "prior_rate", dtype, {width}, params);
  check_tensor(lower, "lower", dtype, {width}, params);
  check_tensor(upper, "upper", dtype, {width}, params);
  const Distance distance = parse_distance(kind, delta);
  check(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas: expected two numbers in [0, 1), got ",
        beta1, " and ", beta2);
  check(eps > 0, "eps: expected a number above 0, got ", eps);
  check(n_iter >= 0, "n_iter: expected at least 0, got ", n_iter);

  const Backend backend(params);
  const Input dense_target(target), dense_w1(w1), dense_b1(b1), dense_w2(w2), dense_b2(b2), dense_w3(w3),
      dense_b3(b3), dense_weight(feature_weight), dense_mean(prior_mean), dense_precision(prior_precision),
      dense_rate(prior_rate), dense_lower(lower), dense_upper(upper);
  InPlace state[] = {InPlace(params), InPlace(exp_avg), InPlace(exp_avg_sq), InPlace(step), InPlace(active)};
  Tensor loss = torch::stable::new_empty(params, {batch});
  with_scalar_type(params, [&](auto zero) {
    using T = decltype(zero);
    const FitMlpArgs<T> args{
        state[0].data<T>(),
        state[1].data<T>(),
        state[2].data<T>(),
        state[3].data<int32_t>(),
        state[4].data<bool>(),
        static_cast<T*>(loss.mutable_data_ptr()),
        dense_target.data<T>(),
        dense_w1.data<T>(),
        dense_b1.data<T>(),
        dense_w2.data<T>(),
        dense_b2.data<T>(),
        dense_w3.data<T>(),
        dense_b3.data<T>(),
        dense_weight.data<T>(),
        dense_mean.data<T>(),
        dense_precision.data<T>(),
        dense_rate.data<T>(),
        dense_lower.data<T>(),
        dense_upper.data<T>(),
        batch,
        int32_t(width),
        int32_t(hidden1),
        int32_t(hidden2),
        int32_t(features),
        distance,
        T(delta),
        lr,
        lr_decay,
        beta1,
        beta2,
        eps,
        T(tol),
        n_iter,
    };
    Backend::fit_mlp(args, parse_precision(precision), params, backend.stream());
  });
  for (InPlace& tensor : state) tensor.write_back();
  return loss;
}

}  // namespace genet
