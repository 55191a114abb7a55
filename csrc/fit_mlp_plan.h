// How a CUDA search is launched: a pure function of the problem and the device, so that it can be tested and
// printed (genet_ext._C.fit_mlp_plan) without a GPU.
#pragma once

#include <stdexcept>
#include <string>

#include "fit_mlp_tensor.h"
#include "fit_mlp_tile.h"

namespace genet {

// What a plan needs to know of a GPU.
struct DeviceLimits {
  int capability;  // 80 for compute capability 8.0
  int multiprocessors;
  int64_t shared_per_block;  // bytes a block may ask for, opted in
  int64_t shared_per_multiprocessor;
};

struct FitMlpPlan {
  Precision precision;
  int tile_faces;  // of a block (full precision) or of a warp (tensor)
  int threads;     // of a block
  int blocks;
  int64_t shared_bytes;  // dynamic, of a block
  TensorState state;     // what of a face a tensor warp keeps in shared memory
};

// For experiments: a tile or a placement of the state other than the planned one. None of it changes a
// number.
struct FitMlpWish {
  int tile_faces = 0;    // 0: as planned
  int tensor_state = 0;  // 0: as planned, else a TensorState
};

constexpr int kTileSizes[] = {64, 32, 16, 4,
                              1};         // there is a full-precision kernel for each; float64 from 16 down
constexpr int64_t kSharedReserve = 1024;  // the driver's own, a block
constexpr int kTileBlocksPerMultiprocessor = 2;  // their registers allow no more

template <typename T>
constexpr bool has_tile(int faces) {
  return sizeof(T) == 4 || faces <= 16;
}

template <typename T>
int64_t tile_shared_bytes(const FitMlpArgs<T>& args, int faces) {
  return int64_t{tile_rows(args.width, args.hidden1, args.hidden2, args.features).total} * faces * sizeof(T) +
         int64_t(sizeof(TileSlot<T>)) * faces;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Full precision: the widest tile that leaves no multiprocessor without faces; the numbers do not depend on
// it.
template <typename T>
FitMlpPlan full_precision_plan(const FitMlpArgs<T>& args, const DeviceLimits& device,
                               const FitMlpWish& wish) {
  int faces = 0;
  for (int candidate : kTileSizes) {
    if (!has_tile<T>(candidate) || (wish.tile_faces > 0 && wish.tile_faces != candidate)) continue;
    if (tile_shared_bytes(args, candidate) > device.shared_per_block) continue;
    faces = candidate;
    if (ceil_div(args.batch, candidate) >= device.multiprocessors) break;
  }
  if (faces == 0)
    throw std::invalid_argument("fit_mlp_: no tile of these layers fits this GPU's shared memory");
  const int64_t shared = tile_shared_bytes(args, faces);
  const int64_t fit = device.shared_per_multiprocessor / (shared + kSharedReserve);
  const int64_t resident = fit < 1                              ? 1
                           : fit < kTileBlocksPerMultiprocessor ? fit
                                                                : kTileBlocksPerMultiprocessor;
  const int64_t wanted = ceil_div(args.batch, faces);
  const int64_t most = device.multiprocessors * resident;
  return {Precision::kFull, faces, TileShape<1, 1, 1>::kThreads, int(wanted < most ? wanted : most), shared,
          TensorState::kAll};
}

// Tensor cores: one block to a multiprocessor (its weights fill most of the shared memory), with as many
// warps of 16 faces as the rest holds. Where few warps are wanted, or fit, they keep Adam's moments in shared
// memory too; the numbers do not depend on it.
inline FitMlpPlan tensor_plan(const FitMlpArgs<float>& args, const DeviceLimits& device,
                              const FitMlpWish& wish) {
  const char* problem = tensor_problem(args);
  if (problem) throw std::invalid_argument(std::string("precision: tensor needs ") + problem);
  if (device.capability < 80) {
    throw std::invalid_argument("precision: tensor needs a GPU of compute capability 8.0 or newer");
  }
  const auto fitting_warps = [&](TensorState state) {
    int warps = tensor_max_warps(state);
    while (warps > 0 && tensor_shared_bytes(args, warps, state) > device.shared_per_block) --warps;
    return warps;
  };
  const int64_t tiles = ceil_div(args.batch, kTensorFaces);
  const int64_t spread =
      ceil_div(tiles, device.multiprocessors);  // warps that keep every multiprocessor busy
  const int all = fitting_warps(TensorState::kAll), theta = fitting_warps(TensorState::kTheta);
  if (theta == 0) {
    throw std::invalid_argument(
        "precision: tensor needs more shared memory than this GPU has for such wide layers");
  }
  const TensorState planned = spread <= all || all == theta ? TensorState::kAll : TensorState::kTheta;
  const TensorState state = wish.tensor_state ? TensorState(wish.tensor_state) : planned;
  const int most = state == TensorState::kAll ? all : theta;
  const int warps = int(spread < 1 ? 1 : spread < most ? spread : most);
  const int64_t wanted = ceil_div(tiles, warps);
  const int blocks = int(wanted < device.multiprocessors ? wanted : device.multiprocessors);
  return {Precision::kTensor,
          kTensorFaces,
          warps * kLanes,
          blocks,
          tensor_shared_bytes(args, warps, state),
          state};
}

template <typename T>
FitMlpPlan fit_mlp_plan(const FitMlpArgs<T>& args, Precision precision, const DeviceLimits& device,
                        const FitMlpWish& wish) {
  if (precision == Precision::kFull) return full_precision_plan(args, device, wish);
  if constexpr (sizeof(T) == sizeof(float)) return tensor_plan(args, device, wish);
  throw std::invalid_argument("precision: tensor needs float32 tensors");
}

}  // namespace genet
