// The operators' schemas, and their CPU kernels. Built against LibTorch's stable ABI: one library for every
// torch from 2.10 on.
#include "ops.h"

#include <torch/csrc/stable/library.h>

namespace genet {

void parallel_for_faces(int64_t faces, int64_t faces_per_thread,
                        void (*body)(const void* context, int64_t begin, int64_t end), const void* context) {
  torch::stable::parallel_for(0, faces, faces_per_thread,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

namespace {

struct Cpu {
  explicit Cpu(const Tensor&) {}
  void* stream() const { return nullptr; }

  template <typename T>
  static void feature_distance(const FeatureDistanceArgs<T>& args, void* stream) {
    feature_distance_cpu(args, stream);
  }
  template <typename T>
  static void adam_step(const AdamStepArgs<T>& args, void* stream) {
    adam_step_cpu(args, stream);
  }
  template <typename T>
  static void fit_mlp(const FitMlpArgs<T>& args, Precision precision, const Tensor&, void* stream) {
    check(precision == Precision::kFull, "precision: expected full on the CPU, got tensor (it needs CUDA)");
    fit_mlp_cpu(args, stream);
  }
};

}  // namespace
}  // namespace genet

STABLE_TORCH_LIBRARY(genet_ext, m) {
  m.def(
      "feature_distance(Tensor pred, Tensor target, Tensor weight, str kind=\"squared\", float delta=1.0)"
      " -> (Tensor loss, Tensor grad)");
  m.def(
      "adam_step_(Tensor(a!) params, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) step,"
      " Tensor active, Tensor lower, Tensor upper, *, float lr, float beta1, float beta2, float eps,"
      " Tensor? prior_mean=None, Tensor? prior_precision=None, Tensor? prior_rate=None) -> ()");
  m.def(
      "fit_mlp_(Tensor(a!) params, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) step, Tensor(e!) "
      "active,"
      " Tensor target, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, Tensor b3, Tensor "
      "feature_weight,"
      " Tensor prior_mean, Tensor prior_precision, Tensor prior_rate, Tensor lower, Tensor upper, *, str "
      "kind,"
      " float delta, float lr, float lr_decay, float beta1, float beta2, float eps, float tol, int n_iter,"
      " str precision=\"full\")"
      " -> Tensor loss");
}

STABLE_TORCH_LIBRARY_IMPL(genet_ext, CPU, m) {
  m.impl("feature_distance", TORCH_BOX(&genet::feature_distance<genet::Cpu>));
  m.impl("adam_step_", TORCH_BOX(&genet::adam_step_<genet::Cpu>));
  m.impl("fit_mlp_", TORCH_BOX(&genet::fit_mlp_<genet::Cpu>));
}
