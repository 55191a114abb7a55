// genet_ext._C: what is not a tensor operator. No torch header, so it loads beside any torch.
#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

namespace {

// The copy of the CPU kernels (GENET_SIMD in host_device.h) that this processor runs.
std::string simd_level() {
#if defined(__x86_64__) && defined(__gnu_linux__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2, FMA)";
  return "x86-64 (baseline)";
#else
  return "baseline";
#endif
}

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
  m.def("simd_level", &simd_level, "The x86-64 level of the CPU kernels in use on this processor.");
}
