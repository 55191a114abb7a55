// The CUDA search on emulated blocks and warps, for the tests.
#include "fit_mlp_emulate.h"

#include <stdexcept>
#include <vector>

#include "fit_mlp_plan.h"

namespace genet {
namespace {

// Blocks share the queue and nothing else, so they may as well run one after the other.
template <typename T, typename Shape>
void run_tile(const FitMlpArgs<T>& args, const FitMlpPlan& plan) {
  std::vector<T> packed(tile_workspace(args));
  for (size_t i = 0; i < packed.size(); ++i) packed[i] = tile_packed_element(args, int64_t(i));
  unsigned long long queue = 0;
  for (int block = 0; block < plan.blocks; ++block) {
    const TileRows rows = tile_rows(args.width, args.hidden1, args.hidden2, args.features);
    std::vector<T> shared(size_t(rows.total) * Shape::kFaces, T(NAN));  // as undefined as on the device
    std::vector<TileSlot<T>> slots(Shape::kFaces);
    FitTile<T, Shape, EmulatedBlock<Shape::kThreads>>(args, packed.data(), &queue, shared.data(),
                                                      slots.data(), {})
        .search();
  }
}

template <typename Warp>
void run_tensor(const FitMlpArgs<float>& args, const FitMlpPlan& plan) {
  const TensorScales scales = tensor_scales(args);
  const int bytes = tensor_layout(args.features).bytes;
  std::vector<double> image(bytes / sizeof(double) + 1);  // double: aligned for all that lies in it
  for (int at = 0; at < bytes; at += 2) {
    const TensorElement element = tensor_image(args, scales, at);
    if (element.half) {
      reinterpret_cast<uint16_t*>(image.data())[at / 2] = to_half(element.value);
    } else if (at % 4 == 0) {
      reinterpret_cast<float*>(image.data())[at / 4] = element.value;
    }
  }
  unsigned long long queue = 0;
  for (int warp = 0; warp < plan.blocks * plan.threads / kLanes; ++warp) {
    std::vector<double> own(tensor_warp_bytes() / sizeof(double) + 1, double(NAN));
    FitWarp<Warp>(args, &queue, reinterpret_cast<unsigned char*>(image.data()),
                  reinterpret_cast<unsigned char*>(own.data()), {})
        .search();
  }
}

}  // namespace

template <typename T>
void fit_mlp_emulated(const FitMlpArgs<T>& args, const FitMlpPlan& plan) {
  if (plan.precision == Precision::kTensor) {
    if constexpr (sizeof(T) == sizeof(float)) {
      return plan.group_warps > 1 ? run_tensor<EmulatedGroupWarp>(args, plan)
                                  : run_tensor<EmulatedWarp>(args, plan);
    }
  }
  switch (plan.tile_faces) {
    case 1: return run_tile<T, TileShape<1, 1, 1>>(args, plan);
    case 4: return run_tile<T, TileShape<4, 2, 1>>(args, plan);
    case 16: return run_tile<T, TileShape<16, 4, 2>>(args, plan);
  }
  throw std::invalid_argument("plan: there is no kernel with this tile");
}

template void fit_mlp_emulated(const FitMlpArgs<float>& args, const FitMlpPlan& plan);
template void fit_mlp_emulated(const FitMlpArgs<double>& args, const FitMlpPlan& plan);

}  // namespace genet
