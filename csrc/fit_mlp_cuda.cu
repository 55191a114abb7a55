// Launches the search: one small kernel that lays the weights out, then the persistent search itself. The
// algorithms are in fit_mlp_tile.h (full precision) and fit_mlp_tensor.h (tensor cores), the launch plan in
// fit_mlp_plan.h.
#include <cuda_fp16.h>

#include <cstdlib>

#include "cuda_launch.h"
#include "fit_mlp_plan.h"

namespace genet {
namespace {

constexpr int kPrepareThreads = 256;

struct DeviceBlock {
  template <typename F>
  __device__ __forceinline__ void each_thread(F f) const {
    f(int(threadIdx.x));
  }
  __device__ __forceinline__ void barrier() const { __syncthreads(); }

  template <typename Value, typename Fold, typename Done>
  __device__ __forceinline__ void fold_warps(Value value, Fold fold, Done done) const {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    auto total = value(warp, lane);
#pragma unroll
    for (int half = kWarp / 2; half > 0; half /= 2) total = fold(total, __shfl_down_sync(~0u, total, half));
    if (lane == 0) done(warp, total);
  }

  __device__ __forceinline__ unsigned long long take(unsigned long long* queue) const {
    return atomicAdd(queue, 1ull);
  }
};

// One lane of a warp; PerLane is what that lane holds of the warp's registers.
struct DeviceWarp {
  template <typename T, int kCount>
  struct PerLane {
    T values[kCount];
    __device__ __forceinline__ T& operator()(int, int i) { return values[i]; }
    __device__ __forceinline__ const T& operator()(int, int i) const { return values[i]; }
  };

  template <typename F>
  __device__ __forceinline__ void each(F f) const {
    f(int(threadIdx.x % kWarp));
  }
  template <typename F>
  __device__ __forceinline__ bool any(F f) const {
    return __any_sync(~0u, f(int(threadIdx.x % kWarp)));
  }
  __device__ __forceinline__ void sync() const { __syncwarp(); }
  __device__ __forceinline__ unsigned long long take(unsigned long long* queue) const {
    return atomicAdd(queue, 1ull);
  }

  static __device__ __forceinline__ float rsqrt(float x) {
    float root;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
  }
  static __device__ __forceinline__ float sqrt(float x) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
  }
  static __device__ __forceinline__ float divide(float a, float b) {
    float quotient;
    asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(quotient) : "f"(a), "f"(b));
    return quotient;
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ __forceinline__ void unpack(uint32_t pair, float& low, float& high) {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    low = both.x, high = both.y;
  }

  template <typename V>
  __device__ __forceinline__ void quad_sum(V& values) const {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) values.values[i] += __shfl_xor_sync(~0u, values.values[i], distance);
    }
  }
  template <typename V>
  __device__ __forceinline__ void quad_max(V& values) const {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float other = __shfl_xor_sync(~0u, values.values[i], distance);
        values.values[i] = other > values.values[i] ? other : values.values[i];
      }
    }
  }

  // volatile: the weights are the same in every iteration, and must not be kept in registers for that.
  template <bool kTranspose, typename Address>
  __device__ __forceinline__ void load_matrices(PerLane<uint32_t, 4>& out, Address address) const {
    const uint32_t from = uint32_t(__cvta_generic_to_shared(address(int(threadIdx.x % kWarp))));
    if (kTranspose) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(out.values[0]), "=r"(out.values[1]), "=r"(out.values[2]), "=r"(out.values[3])
                   : "r"(from));
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(out.values[0]), "=r"(out.values[1]), "=r"(out.values[2]), "=r"(out.values[3])
                   : "r"(from));
    }
  }

  template <typename Out, typename Left>
  __device__ __forceinline__ void multiply(Out& out, int out_first, const Left& left, int left_first,
                                           const PerLane<uint32_t, 4>& right, int right_first) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, "
        "%3};"
        : "+f"(out.values[out_first]), "+f"(out.values[out_first + 1]), "+f"(out.values[out_first + 2]),
          "+f"(out.values[out_first + 3])
        : "r"(left.values[left_first]), "r"(left.values[left_first + 1]), "r"(left.values[left_first + 2]),
          "r"(left.values[left_first + 3]), "r"(right.values[right_first]),
          "r"(right.values[right_first + 1]));
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GENET_WGMMA 1
#else
#define GENET_WGMMA 0
#endif

#if GENET_WGMMA
// One lane of a Hopper group of four warps, whose rows one wgmma multiplies: 64 times 16 by 16 times 8
// kTiles.
struct TensorWarp : DeviceWarp {
  static constexpr bool kRoomForLoads = true;
  static constexpr int kChunk = 64;

  template <typename F>
  __device__ __forceinline__ bool any(F f) const {
    const int here = f(int(threadIdx.x % kWarp)), group = 1 + threadIdx.x / (kTensorGroup * kWarp);
    int found;
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.ne.b32 p, %1, 0;\nbarrier.cta.red.or.pred q, %2, %3, p;\n"
        "selp.b32 %0, 1, 0, q;\n}"
        : "=r"(found)
        : "r"(here), "r"(group), "n"(kTensorGroup * kWarp)
        : "memory");
    return found;
  }

  // wgmma works on while the threads go on: these keep the compiler from reading the sums too early, and from
  // giving the left operand's registers away.
  template <int kCount>
  static __device__ __forceinline__ void settle(PerLane<float, kCount>& out) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(out.values[i])::"memory");
  }
  template <int kCount>
  static __device__ __forceinline__ void keep(const PerLane<uint32_t, kCount>& left) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" ::"r"(left.values[i]) : "memory");
  }

  template <bool kBack, int kSteps, int kTiles, typename Out, typename Left, typename Matrix>
  __device__ __forceinline__ void product(Out& out, const Left& left, const Matrix& matrix) const {
    settle(out), keep(left);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    product_by_group<kBack, kSteps, kTiles>(*this, out, left, matrix);
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    settle(out), keep(left);
  }

  template <bool kBack, int kTiles, typename Out, typename Left>
  __device__ __forceinline__ void group_multiply(Out& out, const Left& left, int first,
                                                 const TensorOperand& right) const {
    // Addresses and distances in units of 16 bytes; no swizzle.
    const uint64_t descriptor = uint64_t(uint32_t(__cvta_generic_to_shared(right.blocks)) >> 4 & 0x3fff) |
                                uint64_t(right.along_sum / 8) << 16 | uint64_t(right.along_outputs / 8) << 32;
#define GENET_OUT4(i) \
  "+f"(out.values[i]), "+f"(out.values[i + 1]), "+f"(out.values[i + 2]), "+f"(out.values[i + 3])
#define GENET_OUT16(i) GENET_OUT4(i), GENET_OUT4(i + 4), GENET_OUT4(i + 8), GENET_OUT4(i + 12)
    if constexpr (kTiles == 8) {
      asm volatile(
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
          "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
          "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
          "}, {%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
          : GENET_OUT16(0), GENET_OUT16(16)
          : "r"(left.values[first + 0]), "r"(left.values[first + 1]), "r"(left.values[first + 2]),
            "r"(left.values[first + 3]), "l"(descriptor), "n"(int(kBack)));
    } else if constexpr (kTiles == 12) {
      asm volatile(
          "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {"
          "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
          "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
          "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
          "}, {%48, %49, %50, %51}, %52, 1, 1, 1, %53;"
          : GENET_OUT16(0), GENET_OUT16(16), GENET_OUT16(32)
          : "r"(left.values[first + 0]), "r"(left.values[first + 1]), "r"(left.values[first + 2]),
            "r"(left.values[first + 3]), "l"(descriptor), "n"(int(kBack)));
    } else if constexpr (kTiles == 16) {
      asm volatile(
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
          "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
          "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
          "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "
          "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
          "}, {%64, %65, %66, %67}, %68, 1, 1, 1, %69;"
          : GENET_OUT16(0), GENET_OUT16(16), GENET_OUT16(32), GENET_OUT16(48)
          : "r"(left.values[first + 0]), "r"(left.values[first + 1]), "r"(left.values[first + 2]),
            "r"(left.values[first + 3]), "l"(descriptor), "n"(int(kBack)));
    } else {
      static_assert(kTiles == 16, "no wgmma of this width");
    }
#undef GENET_OUT4
#undef GENET_OUT16
  }
};
#else
// One lane of a warp that multiplies by itself.
struct TensorWarp : DeviceWarp {
  static constexpr bool kRoomForLoads = false;  // registers for loads that overlap a product
  static constexpr int kChunk = 32;             // features at a time

  template <bool kBack, int kSteps, int kTiles, typename Out, typename Left, typename Matrix>
  __device__ __forceinline__ void product(Out& out, const Left& left, const Matrix& matrix) const {
    product_by_fragments<kBack, kSteps, kTiles>(*this, out, left, matrix);
  }
};
#endif

// The workspace: this header, then the packed weights (full precision) or the image of the shared memory
// (tensor).
struct alignas(256) Workspace {
  unsigned long long queue;  // next face
};

template <typename T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_tile(const __grid_constant__ FitMlpArgs<T> args, Workspace* workspace, T* packed, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kPrepareThreads + threadIdx.x;
  if (i == 0) workspace->queue = 0;
  if (i < count) packed[i] = tile_packed_element(args, i);
}

__global__ void __launch_bounds__(kPrepareThreads)
    prepare_tensor(const __grid_constant__ FitMlpArgs<float> args, Workspace* workspace,
                   unsigned char* image) {
  __shared__ TensorScales scales;
  if (threadIdx.x == 0) scales = tensor_scales(args);
  __syncthreads();
  const int i = blockIdx.x * kPrepareThreads + threadIdx.x;
  if (i == 0) workspace->queue = 0;
  if (2 * i >= tensor_layout(args.features).bytes) return;
  const TensorElement element = tensor_image(args, scales, 2 * i);
  if (element.half) {
    reinterpret_cast<__half*>(image)[i] = __float2half_rn(element.value);
  } else if (i % 2 == 0) {
    reinterpret_cast<float*>(image)[i / 2] = element.value;
  }
}

template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    search_tile(const __grid_constant__ FitMlpArgs<T> args, Workspace* workspace, const T* packed) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* slots = reinterpret_cast<TileSlot<T>*>(shared);
  auto* rows = reinterpret_cast<T*>(slots + Shape::kFaces);
  FitTile<T, Shape, DeviceBlock>(args, packed, &workspace->queue, rows, slots, {}).search();
}

__global__ void __launch_bounds__(kTensorMaxWarps* kWarp, 1)
    search_tensor(const __grid_constant__ FitMlpArgs<float> args, Workspace* workspace, const uint4* image) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int bytes = tensor_layout(args.features).bytes;
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x) reinterpret_cast<uint4*>(shared)[i] = image[i];
#if GENET_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // wgmma reads what was stored here
#endif
  __syncthreads();
  unsigned char* own = shared + bytes + (threadIdx.x / kWarp) * tensor_warp_bytes();
  FitWarp<TensorWarp>(args, &workspace->queue, shared, own, {}).search();
}

DeviceLimits current_device_limits() {
  int device = 0;
  cudaGetDevice(&device);
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    cudaDeviceGetAttribute(&value, which, device);
    return value;
  };
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

// GENET_FIT_TILE=16|4|1, GENET_FIT_WARPS=1..8
FitMlpWish wish_of_environment() {
  const auto number = [](const char* name) {
    const char* value = std::getenv(name);
    return value ? std::atoi(value) : 0;
  };
  return {number("GENET_FIT_TILE"), number("GENET_FIT_WARPS")};
}

// As operators throw: what std::invalid_argument becomes in Python depends on torch's version.
template <typename T>
FitMlpPlan plan_or_runtime_error(const FitMlpArgs<T>& args, Precision precision) {
  try {
    return fit_mlp_plan(args, precision, current_device_limits(), wish_of_environment());
  } catch (const std::invalid_argument& refusal) {
    throw std::runtime_error(refusal.what());
  }
}

template <typename Kernel, typename... Args>
void launch(Kernel kernel, const FitMlpPlan& plan, cudaStream_t stream, const Args&... args) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(plan.shared_bytes));
  kernel<<<plan.blocks, plan.threads, plan.shared_bytes, stream>>>(args...);
  check_launch("fit_mlp_");
}

template <typename T>
void launch_tile(const FitMlpArgs<T>& args, const FitMlpPlan& plan, Workspace* workspace, const T* packed,
                 cudaStream_t stream) {
  switch (plan.tile_faces) {
    case 1: return launch(search_tile<T, TileShape<1, 1, 1>>, plan, stream, args, workspace, packed);
    case 4: return launch(search_tile<T, TileShape<4, 2, 1>>, plan, stream, args, workspace, packed);
    default: return launch(search_tile<T, TileShape<16, 4, 2>>, plan, stream, args, workspace, packed);
  }
}

}  // namespace

template <typename T>
int64_t fit_mlp_workspace(const FitMlpArgs<T>& args, Precision precision) {
  return int64_t(sizeof(Workspace)) + (precision == Precision::kTensor
                                           ? tensor_layout(args.features).bytes
                                           : tile_workspace(args) * int64_t(sizeof(T)));
}

template <typename T>
void fit_mlp_cuda(const FitMlpArgs<T>& args, Precision precision, void* memory, void* opaque_stream) {
  const FitMlpPlan plan = plan_or_runtime_error(args, precision);
  if (args.batch == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  auto* workspace = static_cast<Workspace*>(memory);
  const auto blocks = [](int64_t count) { return unsigned(ceil_div(count, kPrepareThreads)); };
  if (precision == Precision::kFull) {
    T* packed = reinterpret_cast<T*>(workspace + 1);
    const int64_t count = tile_workspace(args);
    prepare_tile<<<blocks(count), kPrepareThreads, 0, stream>>>(args, workspace, packed, count);
    check_launch("fit_mlp_");
    return launch_tile(args, plan, workspace, packed, stream);
  }
  if constexpr (sizeof(T) == 4) {
    const int bytes = tensor_layout(args.features).bytes;
    auto* image = reinterpret_cast<unsigned char*>(workspace + 1);
    prepare_tensor<<<blocks(bytes / 2), kPrepareThreads, 0, stream>>>(args, workspace, image);
    check_launch("fit_mlp_");
    const auto* vectors = reinterpret_cast<const uint4*>(image);
    launch(search_tensor, plan, stream, args, workspace, vectors);
  }
}

template void fit_mlp_cuda(const FitMlpArgs<float>& args, Precision precision, void* workspace, void* stream);
template void fit_mlp_cuda(const FitMlpArgs<double>& args, Precision precision, void* workspace,
                           void* stream);
template int64_t fit_mlp_workspace(const FitMlpArgs<float>& args, Precision precision);
template int64_t fit_mlp_workspace(const FitMlpArgs<double>& args, Precision precision);

}  // namespace genet
