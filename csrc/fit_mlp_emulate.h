// Stand-ins for a CUDA block and warp on the CPU, in lock-step: the tile algorithms run unchanged on them, so
// that the tests can check layouts, queue and rounding without a GPU. Slow, and only for that.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fit_mlp_tensor.h"

namespace genet {

inline uint16_t to_half(float value) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const float size = std::fabs(value);
  if (!(size <= 3e38f)) return sign | (size != size ? 0x7e00 : 0x7c00);
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size < 6.103515625e-05f) return sign | uint16_t(std::nearbyint(size * 16777216.0f));  // units of 2^-24
  std::memcpy(&bits, &size, 4);
  bits += 0xfff + (bits >> 13 & 1);
  return sign | uint16_t((bits >> 13) - (112 << 10));
}

inline float from_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  float size =
      exponent == 0 ? std::ldexp(float(fraction), -24) : std::ldexp(float(1024 + fraction), exponent - 25);
  if (exponent == 31) size = fraction ? NAN : INFINITY;
  return half & 0x8000 ? -size : size;
}

template <int kThreads>
struct EmulatedBlock {
  template <typename F>
  void each_thread(F f) const {
    for (int thread = 0; thread < kThreads; ++thread) f(thread);
  }
  void barrier() const {}

  // done(warp, fold of value(warp, lane) over the lanes), in the order of a warp's shuffles.
  template <typename Value, typename Fold, typename Done>
  void fold_warps(Value value, Fold fold, Done done) const {
    for (int warp = 0; warp < kThreads / kLanes; ++warp) {
      decltype(value(0, 0)) lanes[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = value(warp, lane);
      for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) lanes[lane] = fold(lanes[lane], lanes[lane + half]);
      }
      done(warp, lanes[0]);
    }
  }

  unsigned long long take(unsigned long long* queue) const { return (*queue)++; }
};

struct EmulatedWarp {
  static constexpr bool kRoomForLoads = false;
  static constexpr int kChunk = 32;

  template <typename T, int kCount>
  struct PerLane {
    T values[32][kCount];
    T& operator()(int lane, int i) { return values[lane][i]; }
    const T& operator()(int lane, int i) const { return values[lane][i]; }
  };

  template <typename F>
  void each(F f) const {
    for (int lane = 0; lane < 32; ++lane) f(lane);
  }
  template <typename F>
  bool any(F f) const {
    bool found = false;
    for (int lane = 0; lane < 32; ++lane) found |= f(lane);
    return found;
  }
  void sync() const {}
  unsigned long long take(unsigned long long* queue) const { return (*queue)++; }

  static float rsqrt(float x) { return 1.0f / std::sqrt(x); }
  static float sqrt(float x) { return std::sqrt(x); }
  static float divide(float a, float b) { return a / b; }
  static uint32_t pack(float low, float high) { return to_half(low) | uint32_t(to_half(high)) << 16; }
  static void unpack(uint32_t pair, float& low, float& high) {
    low = from_half(uint16_t(pair)), high = from_half(uint16_t(pair >> 16));
  }

  template <typename V, typename Fold>
  void fold_quads(V& values, Fold fold) const {
    for (int distance : {1, 2}) {
      V old = values;
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 2; ++i) values(lane, i) = fold(old(lane, i), old(lane ^ distance, i));
      }
    }
  }
  template <typename V>
  void quad_sum(V& values) const {
    fold_quads(values, [](float a, float b) { return a + b; });
  }
  template <typename V>
  void quad_max(V& values) const {
    fold_quads(values, [](float a, float b) { return b > a ? b : a; });
  }

  // ldmatrix .x4: lane i gives the address of row i % 8 of matrix i / 8; register m of a lane gets, of matrix
  // m, row lane / 4, columns 2 (lane % 4) and the next; with .trans of the transposed matrix.
  template <bool kTranspose, typename Address>
  void load_matrices(PerLane<uint32_t, 4>& out, Address address) const {
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        const int row = lane / 4, column = lane % 4 * 2;
        const uint16_t low = kTranspose ? address(8 * m + column)[row] : address(8 * m + row)[column];
        const uint16_t high =
            kTranspose ? address(8 * m + column + 1)[row] : address(8 * m + row)[column + 1];
        out(lane, m) = low | uint32_t(high) << 16;
      }
    }
  }

  // mma.m16n8k16 with float16 factors and float32 sums; fragments as the PTX manual lays them out. The
  // hardware's order of addition is not documented; here the 16 products are added exactly (nearly) and
  // rounded once.
  template <typename Out, typename Left>
  void multiply(Out& out, int out_first, const Left& left, int left_first, const PerLane<uint32_t, 4>& right,
                int right_first) const {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i % 2), column = t + 8 * (i / 2);
        unpack(left(lane, left_first + i), a[row][column], a[row][column + 1]);
      }
      for (int i = 0; i < 2; ++i) unpack(right(lane, right_first + i), b[t + 8 * i][g], b[t + 8 * i + 1][g]);
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        double sum = out(lane, out_first + i);
        for (int k = 0; k < 16; ++k) sum += double(a[row][k]) * b[k][column];
        out(lane, out_first + i) = float(sum);
      }
    }
  }

  template <bool kBack, int kSteps, int kTiles, typename Out, typename Left, typename Matrix>
  void product(Out& out, const Left& left, const Matrix& matrix) const {
    product_by_fragments<kBack, kSteps, kTiles>(*this, out, left, matrix);
  }
};

// One warp of a group that multiplies by wgmma: its 16 of the 64 rows.
struct EmulatedGroupWarp : EmulatedWarp {
  static constexpr bool kRoomForLoads = true;
  static constexpr int kChunk = 64;

  template <bool kBack, int kSteps, int kTiles, typename Out, typename Left, typename Matrix>
  void product(Out& out, const Left& left, const Matrix& matrix) const {
    product_by_group<kBack, kSteps, kTiles>(*this, out, left, matrix);
  }

  // wgmma without swizzle: element (k, n) lies in block (k / 8, n / 8), a row of which runs along the sum, or
  // along the outputs if the operand is transposed.
  template <bool kBack, int kTiles, typename Out, typename Left>
  void group_multiply(Out& out, const Left& left, int first, const TensorOperand& right) const {
    for (int n = 0; n < 8 * kTiles; n += 8) {
      PerLane<uint32_t, 4> fragment;
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 2; ++i) {
          uint16_t pair[2];
          for (int c = 0; c < 2; ++c) {
            const int k = lane % 4 * 2 + c, column = lane / 4;
            pair[c] = right.blocks[i * right.along_sum + n / 8 * right.along_outputs +
                                   (kBack ? 8 * k + column : 8 * column + k)];
          }
          fragment(lane, i) = pair[0] | uint32_t(pair[1]) << 16;
        }
      }
      multiply(out, n / 2, left, first, fragment, 0);
    }
  }
};

// The CUDA search as launched by `plan`. Throws std::invalid_argument for a plan there is no kernel for.
struct FitMlpPlan;
template <typename T>
void fit_mlp_emulated(const FitMlpArgs<T>& args, const FitMlpPlan& plan);

}  // namespace genet
