// What every operator's header needs, for g++ and nvcc alike. No torch header: a .cu that includes one takes
// two minutes to compile, one that does not takes two seconds.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define GENET_HD __host__ __device__ __forceinline__
#else
#define GENET_HD inline __attribute__((always_inline))
#endif

// One copy of a CPU kernel per x86-64 level, chosen when the library is loaded: AVX-512, AVX2 + FMA, or the
// baseline. Functions called from such a kernel must be inlined into it (GENET_HD), or they stay at the
// baseline.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__CUDACC__)
#define GENET_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GENET_SIMD
#endif

namespace genet {

// A sum over a face's elements is kept as kLanes partial sums (element i goes to lane i % kLanes), added
// pairwise at the end: one CUDA warp, or two AVX-512 registers. Both backends so add in one order, and a
// face's sum depends on nothing but its own elements.
constexpr int kLanes = 32;

template <typename T>
GENET_HD T sum_lanes(T (&lanes)[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// Runs body(context, begin, end) on parts of [0, faces), on torch's intra-op threads. Faces are independent,
// so the result does not depend on how they are divided. Defined in ops.cpp.
void parallel_for_faces(int64_t faces, int64_t faces_per_thread,
                        void (*body)(const void* context, int64_t begin, int64_t end), const void* context);

}  // namespace genet
