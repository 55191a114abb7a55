// The operators' CUDA kernels, in a library of their own: it needs libtorch_cuda, and is loaded where torch
// has CUDA.
#define USE_CUDA  // the shim declares its CUDA functions only then; they come with no CUDA header
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "ops.h"

namespace genet {
namespace {

struct Cuda {
  explicit Cuda(const Tensor& leading) : device_(leading.get_device_index()), guard_(device_) {}

  void* stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return stream;
  }

  template <typename T>
  static void feature_distance(const FeatureDistanceArgs<T>& args, void* stream) {
    feature_distance_cuda(args, stream);
  }
  template <typename T>
  static void adam_step(const AdamStepArgs<T>& args, void* stream) {
    adam_step_cuda(args, stream);
  }
  template <typename T>
  static void fit_mlp(const FitMlpArgs<T>& args, Precision precision, const Tensor& params, void* stream) {
    const int64_t bytes = fit_mlp_workspace(args, precision);
    const Tensor workspace = torch::stable::new_empty(params, {bytes}, ScalarType::Byte);
    fit_mlp_cuda(args, precision, workspace.mutable_data_ptr(), stream);
  }

 private:
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace
}  // namespace genet

STABLE_TORCH_LIBRARY_IMPL(genet_ext, CUDA, m) {
  m.impl("feature_distance", TORCH_BOX(&genet::feature_distance<genet::Cuda>));
  m.impl("adam_step_", TORCH_BOX(&genet::adam_step_<genet::Cuda>));
  m.impl("fit_mlp_", TORCH_BOX(&genet::fit_mlp_<genet::Cuda>));
}
