// The search's loops, once for every SIMD level (fit_mlp_simd.h).
#include <algorithm>
#include <limits>
#include <vector>

#include "fit_mlp.h"
#include "simd_level.h"

#if defined(__x86_64__) && defined(__gnu_linux__)
#include <immintrin.h>

#define GENET_LEVEL level_v4
#define GENET_LEVEL_FN __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#define GENET_LEVEL_BYTES 64
#include "fit_mlp_simd.h"
#undef GENET_LEVEL
#undef GENET_LEVEL_FN
#undef GENET_LEVEL_BYTES

#define GENET_LEVEL level_v3
#define GENET_LEVEL_FN __attribute__((target("arch=x86-64-v3")))
#define GENET_LEVEL_BYTES 32
#include "fit_mlp_simd.h"
#undef GENET_LEVEL
#undef GENET_LEVEL_FN
#undef GENET_LEVEL_BYTES
#endif

#define GENET_LEVEL level_baseline
#define GENET_LEVEL_FN
#define GENET_LEVEL_BYTES 16
#include "fit_mlp_simd.h"

namespace genet {
namespace {

template <typename T>
void run_at_level(const FitMlpArgs<T>& args) {
  if (args.batch == 0) return;
  switch (simd_level()) {
#if defined(__x86_64__) && defined(__gnu_linux__)
    case SimdLevel::kV4: return level_v4::run(args);
    case SimdLevel::kV3: return level_v3::run(args);
#endif
    default: return level_baseline::run(args);
  }
}

}  // namespace

template <>
void fit_mlp_cpu(const FitMlpArgs<float>& args, void*) {
  run_at_level(args);
}

template <>
void fit_mlp_cpu(const FitMlpArgs<double>& args, void*) {
  run_at_level(args);
}

}  // namespace genet
