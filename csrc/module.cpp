// genet_ext._C: what is not a tensor operator. No torch header, so it loads beside any torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "fit_mlp_emulate.h"
#include "fit_mlp_plan.h"
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

genet::Precision precision_of(const std::string& name) {
  if (name == "full") return genet::Precision::kFull;
  if (name == "tensor") return genet::Precision::kTensor;
  throw std::invalid_argument("precision: expected full or tensor, got '" + name + "'");
}

template <typename T>
genet::FitMlpPlan plan_of(int64_t batch, int width, int hidden1, int hidden2, int features,
                          const std::string& precision, const genet::DeviceLimits& device) {
  genet::FitMlpArgs<T> args{};
  args.batch = batch, args.width = width, args.hidden1 = hidden1, args.hidden2 = hidden2,
  args.features = features;
  return genet::fit_mlp_plan(args, precision_of(precision), device, {});
}

// How fit_mlp_ would be launched on a GPU; the device's limits default to an H100's.
py::dict fit_mlp_plan(int64_t batch, int width, int hidden1, int hidden2, int features,
                      const std::string& precision, bool float64, int capability, int multiprocessors,
                      int64_t shared_per_block, int64_t shared_per_multiprocessor) {
  const genet::DeviceLimits device{capability, multiprocessors, shared_per_block, shared_per_multiprocessor};
  const auto plan = (float64 ? plan_of<double> : plan_of<float>)(batch, width, hidden1, hidden2, features,
                                                                 precision, device);
  py::dict result;
  result["precision"] = precision;
  result["tile_faces"] = plan.tile_faces;
  result["threads"] = plan.threads;
  result["blocks"] = plan.blocks;
  result["shared_bytes"] = plan.shared_bytes;
  result["group_warps"] = plan.group_warps;
  return result;
}

// An array's memory, used in place; `shape` is what the emulation takes it for.
template <typename T>
T* in_place(const py::dict& arrays, const char* name, std::initializer_list<int64_t> shape) {
  const auto array = py::array(arrays[name]);
  bool fits = py::isinstance<py::array_t<T, py::array::c_style>>(array) && array.ndim() == int(shape.size());
  for (int i = 0; fits && i < array.ndim(); ++i) fits = array.shape(i) == shape.begin()[i];
  if (!fits)
    throw std::invalid_argument(std::string(name) + ": not the dtype, shape or layout of the search");
  return static_cast<T*>(const_cast<void*>(array.data()));
}

// The CUDA search, emulated on arrays named as fit_mlp_'s arguments; see fit_mlp_emulate.h.
template <typename T>
void fit_mlp_emulated(const py::dict& a, const py::dict& options, const std::string& precision,
                      int tile_faces, int blocks, int warps, int group_warps) {
  const auto shape = [&](const char* name, int i) { return int32_t(py::array(a[name]).shape(i)); };
  const auto number = [&](const char* name) { return options[name].cast<double>(); };
  const int64_t B = shape("params", 0);
  const int32_t P = shape("params", 1), H1 = shape("w1", 0), H2 = shape("w2", 0), D = shape("w3", 0);
  const genet::FitMlpArgs<T> args{
      in_place<T>(a, "params", {B, P}),
      in_place<T>(a, "exp_avg", {B, P}),
      in_place<T>(a, "exp_avg_sq", {B, P}),
      in_place<int32_t>(a, "step", {B}),
      in_place<bool>(a, "active", {B}),
      in_place<T>(a, "loss", {B}),
      in_place<T>(a, "target", {B, D}),
      in_place<T>(a, "w1", {H1, P}),
      in_place<T>(a, "b1", {H1}),
      in_place<T>(a, "w2", {H2, H1}),
      in_place<T>(a, "b2", {H2}),
      in_place<T>(a, "w3", {D, H2}),
      in_place<T>(a, "b3", {D}),
      in_place<T>(a, "feature_weight", {D}),
      in_place<T>(a, "prior_mean", {B, P}),
      in_place<T>(a, "prior_precision", {P, P}),
      in_place<T>(a, "prior_rate", {P}),
      in_place<T>(a, "lower", {P}),
      in_place<T>(a, "upper", {P}),
      B,
      P,
      H1,
      H2,
      D,
      genet::Distance(options["kind"].cast<int>()),
      T(number("delta")),
      number("lr"),
      number("lr_decay"),
      number("beta1"),
      number("beta2"),
      number("eps"),
      T(number("tol")),
      options["n_iter"].cast<int64_t>(),
  };
  const genet::Precision mode = precision_of(precision);
  const char* problem = mode == genet::Precision::kTensor ? genet::tensor_problem(args) : nullptr;
  if (problem) throw std::invalid_argument(std::string("precision: tensor needs ") + problem);
  genet::fit_mlp_emulated(args, {mode, tile_faces, warps * genet::kLanes, blocks, 0, group_warps});
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts of the native build, and the processor level its kernels run at.";
  m.def("build_config", &build_config, "What setup.py resolved when this extension was built.");
  m.def(
      "simd_level", [] { return genet::kSimdNames[int(genet::simd_level())]; },
      "The level fit_mlp_ runs at on the CPU: baseline, x86-64-v3 or x86-64-v4; see GENET_SIMD.");
  m.def("fit_mlp_plan", &fit_mlp_plan, "How fit_mlp_ is launched on a GPU with these limits (an H100's).",
        py::arg("batch"), py::kw_only(), py::arg("width") = 96, py::arg("hidden1") = 128,
        py::arg("hidden2") = 128, py::arg("features") = 256, py::arg("precision") = "full",
        py::arg("float64") = false, py::arg("capability") = 90, py::arg("multiprocessors") = 132,
        py::arg("shared_per_block") = 232448, py::arg("shared_per_multiprocessor") = 233472);
  m.def("fit_mlp_emulated_f32", &fit_mlp_emulated<float>,
        "The CUDA search on an emulated GPU, in place; for tests.");
  m.def("fit_mlp_emulated_f64", &fit_mlp_emulated<double>, "The same for float64 arrays.");
}
