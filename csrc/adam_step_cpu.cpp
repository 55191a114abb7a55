#include <algorithm>
#include <vector>

#include "adam_step.h"

namespace genet {
namespace {

template <typename T>
GENET_HD void step_faces(const AdamStepArgs<T>& args, int64_t begin, int64_t end, T* gradient) {
  const int64_t width = args.width;
  for (int64_t face = begin; face < end; ++face) {
    if (!args.active[face]) continue;
    T* params = args.params + face * width;
    T* exp_avg = args.exp_avg + face * width;
    T* exp_avg_sq = args.exp_avg_sq + face * width;
    for (int64_t k = 0; k < width; ++k) gradient[k] = args.grad[face * width + k];
    if (args.prior_precision) {
      const T* mean = args.prior_mean + face * width;
      for (int64_t j = 0; j < width; ++j) {  // row by row: k runs over vectors, j keeps one order of addition
        const T offset = params[j] - mean[j];
        const T* row = args.prior_precision + j * width;
        for (int64_t k = 0; k < width; ++k) gradient[k] += offset * row[k];
      }
    }
    if (args.prior_rate) {
      for (int64_t k = 0; k < width; ++k)
        gradient[k] = add_rate_gradient(gradient[k], params[k], args.prior_rate[k]);
    }
    const auto coefficients =
        adam_coefficients<T>(args.lr, args.beta1, args.beta2, args.eps, ++args.step[face]);
    for (int64_t k = 0; k < width; ++k) {
      params[k] = adam_element(params[k], gradient[k], exp_avg[k], exp_avg_sq[k], args.lower[k],
                               args.upper[k], coefficients);
    }
  }
}

// GCC clones no templates, so one plain function per dtype.
GENET_SIMD void step_f32(const AdamStepArgs<float>& args, int64_t begin, int64_t end, float* gradient) {
  step_faces(args, begin, end, gradient);
}
GENET_SIMD void step_f64(const AdamStepArgs<double>& args, int64_t begin, int64_t end, double* gradient) {
  step_faces(args, begin, end, gradient);
}

template <typename T, void (*step)(const AdamStepArgs<T>&, int64_t, int64_t, T*)>
void run(const AdamStepArgs<T>& args) {
  // Below about this many multiplications a thread costs more to wake than it saves.
  constexpr int64_t kWorkPerThread = 32768;
  const int64_t work_per_face = args.width * (args.prior_precision ? args.width : 8) + 1;
  parallel_for_faces(
      args.batch, kWorkPerThread / work_per_face + 1,
      [](const void* context, int64_t begin, int64_t end) {
        const auto& args = *static_cast<const AdamStepArgs<T>*>(context);
        std::vector<T> gradient(args.width);
        step(args, begin, end, gradient.data());
      },
      &args);
}

}  // namespace

template <>
void adam_step_cpu(const AdamStepArgs<float>& args, void*) {
  run<float, step_f32>(args);
}

template <>
void adam_step_cpu(const AdamStepArgs<double>& args, void*) {
  run<double, step_f64>(args);
}

}  // namespace genet
