// genet_ext._C: what is not a tensor operator. No torch header, so it loads beside any torch.
#include <pybind11/pybind11.h>

#include "simd_level.h"

namespace py = pybind11;

namespace {

// Facts of the build, as setup.py resolved them; see genet_ext.build_info for those of the running process.
py::dict build_config() {
  py::dict config;
  config["version"] = GENET_VERSION;
  config["torch_built"] = GENET_TORCH_BUILT;
  config["torch_target"] = GENET_TORCH_TARGET;
  config["compiler"] = "gcc-compatible " __VERSION__;
  config["cuda_built"] = GENET_CUDA_BUILT;  // toolkit release, or "" for a build without CUDA
  config["cuda_architectures"] = GENET_CUDA_ARCHITECTURES;
  return config;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts of the native build, and the processor level its kernels run at.";
  m.def("build_config", &build_config, "What setup.py resolved when this extension was built.");
  m.def(
      "simd_level", [] { return genet::kSimdNames[int(genet::simd_level())]; },
      "The level fit_mlp_ runs at on the CPU: baseline, x86-64-v3 or x86-64-v4; see GENET_SIMD.");
}
