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
  int group_warps;       // tensor: warps that multiply together, 4 with wgmma; else 1
};

// For experiments: a tile, or the warps of a tensor block, other than the planned ones. It changes no number.
struct FitMlpWish {
  int tile_faces = 0;    // 0: as planned
  int tensor_warps = 0;  // 0: as planned
};

constexpr int kTileSizes[] = {1, 4, 16};         // there is a full-precision kernel for each
constexpr int64_t kSharedReserve = 1024;         // the driver's own, a block
constexpr int kTileBlocksPerMultiprocessor = 2;  // their registers allow no more

template <typename T>
int64_t tile_shared_bytes(const FitMlpArgs<T>& args, int faces) {
  return int64_t{tile_rows(args.width, args.hidden1, args.hidden2, args.features).total} * faces * sizeof(T) +
         int64_t(sizeof(TileSlot<T>)) * faces;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Full precision: the narrowest tile with which every multiprocessor has one block at most, a step of a
// narrow tile being shorter; beyond that the widest, of which two blocks to a multiprocessor get most done.
// The numbers do not depend on it.
template <typename T>
FitMlpPlan full_precision_plan(const FitMlpArgs<T>& args, const DeviceLimits& device,
                               const FitMlpWish& wish) {
  int faces = 0;
  for (int candidate : kTileSizes) {
    if (wish.tile_faces > 0 && wish.tile_faces != candidate) continue;
    if (tile_shared_bytes(args, candidate) > device.shared_per_block) continue;
    faces = candidate;
    if (ceil_div(args.batch, candidate) <= device.multiprocessors) break;
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
  return {Precision::kFull, faces, TileShape<1, 1, 1>::kThreads, int(wanted < most ? wanted : most),
          shared,           1};
}

// Tensor cores: one block to a multiprocessor (its weights fill most of the shared memory), with as many
// warps of 16 faces as the rest holds; few faces are spread over the multiprocessors first. On Hopper warps
// come in fours, whichever of its kernels was built: only the one for sm_90a needs them to.
inline FitMlpPlan tensor_plan(const FitMlpArgs<float>& args, const DeviceLimits& device,
                              const FitMlpWish& wish) {
  const char* problem = tensor_problem(args);
  if (problem) throw std::invalid_argument(std::string("precision: tensor needs ") + problem);
  if (device.capability < 80) {
    throw std::invalid_argument("precision: tensor needs a GPU of compute capability 8.0 or newer");
  }
  const int group = device.capability == 90 ? kTensorGroup : 1;
  int most = wish.tensor_warps ? round_up(wish.tensor_warps, group) : kTensorMaxWarps;
  while (most > 0 && tensor_shared_bytes(args, most) > device.shared_per_block) most -= group;
  if (most <= 0) {
    throw std::invalid_argument(
        "precision: tensor needs more shared memory than this GPU has for such wide layers");
  }
  const int64_t tiles = ceil_div(args.batch, kTensorFaces * group);
  const int64_t spread = ceil_div(tiles, device.multiprocessors) * group;
  const int warps = int(spread < group ? group : spread < most ? spread : most);
  const int64_t wanted = ceil_div(tiles * group, warps);
  const int blocks = int(wanted < device.multiprocessors ? wanted : device.multiprocessors);
  return {Precision::kTensor, kTensorFaces, warps * kLanes, blocks, tensor_shared_bytes(args, warps), group};
}

template <typename T>
FitMlpPlan fit_mlp_plan(const FitMlpArgs<T>& args, Precision precision, const DeviceLimits& device,
                        const FitMlpWish& wish) {
  if (precision == Precision::kFull) return full_precision_plan(args, device, wish);
  if constexpr (sizeof(T) == sizeof(float)) return tensor_plan(args, device, wish);
  throw std::invalid_argument("precision: tensor needs float32 tensors");
}

}  // namespace genet
