// The tensor-core CUDA search (precision "tensor"): a warp keeps 16 faces and iterates on its own until the
// queue of faces is empty; no barrier, no exchange with other warps. Also compiled for the CPU, where
// EmulatedWarp runs the 32 lanes in lock-step, float16 rounding included.
//
// The weights lie in shared memory once, in float16. Activations never leave the registers: an m16n8k16
// product's accumulators, rounded to float16 and paired, are the next product's left operand, and ldmatrix
// with .trans reads the same weights for the backward pass. The last layer is fused with the distance: 32
// features at a time are computed, turned into gradients and multiplied back, so the predicted features are
// never stored.
//
// Gradients are scaled by a power of two per face before they are rounded to float16: feature weights of any
// size keep their digits, residuals up to 2^20 do not overflow. An overflow is a gradient that is not finite:
// the face fails. Adam's state and update are float32. A lane holds, of rows (faces) g = lane / 4 and g + 8,
// the columns 8 j + 2 t and 8 j + 2 t + 1 with t = lane % 4: pair (j, h) of row g + 8 h.
#pragma once

#include "fit_mlp_tile.h"

namespace genet {

constexpr int kTensorFaces = 16;    // of a warp: the rows of one tensor-core product
constexpr int kTensorWidth = 96;    // likewise; 128 would not fit the registers
constexpr int kTensorHidden = 128;  // narrower layers are padded with zeros
constexpr int kTensorChunk = 32;    // features at a time
constexpr int kTensorPad = 8;       // float16s between rows of a matrix: ldmatrix free of bank conflicts

// Why precision "tensor" cannot run this problem; null if it can.
template <typename T>
inline const char* tensor_problem(const FitMlpArgs<T>& args) {
  if (sizeof(T) != sizeof(float)) return "float32 tensors";
  if (args.width % 8 != 0 || args.width > kTensorWidth) {
    return "at most 96 parameters (columns of params), a multiple of 8";
  }
  if (args.hidden1 > kTensorHidden || args.hidden2 > kTensorHidden)
    return "hidden layers of at most 128 units";
  if (args.features % 8 != 0) return "a number of features (columns of target) that is a multiple of 8";
  return nullptr;
}

// The weights as they lie in shared memory (and, ready for copying, in the workspace): float16 matrices
// [outputs][row] with rows of the constants below, and float32 vectors. What depends on the number of
// features comes last, so that the other places are known to the compiler.
constexpr int kTensorRow1 = kTensorWidth + kTensorPad;   // of W1 and the prior's precision
constexpr int kTensorRow2 = kTensorHidden + kTensorPad;  // of W2 and W3

struct TensorLayout {
  int features;                               // padded to whole chunks
  int w1, w2, prior, b1, b2, w3, b3, weight;  // offsets in bytes
  int bytes;
};

GENET_HD constexpr TensorLayout tensor_layout(int features) {
  TensorLayout l{};
  l.features = round_up(features, kTensorChunk);
  l.w1 = 0;
  l.w2 = l.w1 + 2 * kTensorHidden * kTensorRow1;
  l.prior = l.w2 + 2 * kTensorHidden * kTensorRow2;
  l.b1 = l.prior + 2 * kTensorWidth * kTensorRow1;
  l.b2 = l.b1 + 4 * kTensorHidden;
  l.w3 = l.b2 + 4 * kTensorHidden;
  l.b3 = l.w3 + 2 * l.features * kTensorRow2;
  l.weight = l.b3 + 4 * l.features;
  l.bytes = l.weight + 4 * l.features;
  return l;
}

// The power of two at or below a positive number.
GENET_HD float power_of_two_below(float value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0f, exponent - 1);
}

struct TensorScales {
  float prior;  // the precision matrix is stored divided by this, a power of two: its largest entry is in [1,
                // 2)
  float weight_root;  // square root of the largest feature weight
  float gradient;  // powers of two that gradients are multiplied by, so that a residual of 1 at the largest
                   // weight becomes 1/32 to 1/16
};

GENET_HD TensorScales tensor_scales(const FitMlpArgs<float>& args) {
  float weight = 0, precision = 0;
  for (int d = 0; d < args.features; ++d)
    weight = args.feature_weight[d] > weight ? args.feature_weight[d] : weight;
  for (int k = 0; k < args.width;
       ++k) {  // of a positive definite matrix the largest entry is on the diagonal
    const float diagonal = args.prior_precision[k * args.width + k];
    precision = diagonal > precision ? diagonal : precision;
  }
  return {precision > 0 && precision < 1e30f ? power_of_two_below(precision) : 1.0f, std::sqrt(weight),
          weight > 1e-30f && weight < 1e30f ? 0.0625f / (2 * power_of_two_below(weight)) : 1.0f};
}

// Element (n, k) of a matrix, zero outside it.
GENET_HD float tensor_element(const float* matrix, int outputs, int inputs, int n, int k) {
  return n < outputs && k < inputs ? matrix[n * inputs + k] : 0;
}

// What lies at byte `at` of the image: a float16 (before it is rounded) or a float32.
struct TensorElement {
  float value;
  bool half;
};

GENET_HD TensorElement tensor_image(const FitMlpArgs<float>& args, const TensorScales& scales, int at) {
  const TensorLayout l = tensor_layout(args.features);
  const int P = args.width, H1 = args.hidden1, H2 = args.hidden2, D = args.features;
  const auto row = [&](int begin, int stride) { return (at - begin) / 2 / stride; };
  const auto column = [&](int begin, int stride) { return (at - begin) / 2 % stride; };
  const auto vector = [&](const float* source, int count, int begin) {
    const int i = (at - begin) / 4;
    return TensorElement{i < count ? source[i] : 0, false};
  };
  if (at < l.w2)
    return {tensor_element(args.w1, H1, P, row(l.w1, kTensorRow1), column(l.w1, kTensorRow1)), true};
  if (at < l.prior) {
    return {tensor_element(args.w2, H2, H1, row(l.w2, kTensorRow2), column(l.w2, kTensorRow2)), true};
  }
  if (at < l.b1) {
    const float value =
        tensor_element(args.prior_precision, P, P, row(l.prior, kTensorRow1), column(l.prior, kTensorRow1));
    return {value / scales.prior, true};
  }
  if (at < l.b2) return vector(args.b1, H1, l.b1);
  if (at < l.w3) return vector(args.b2, H2, l.b2);
  if (at < l.b3)
    return {tensor_element(args.w3, D, H2, row(l.w3, kTensorRow2), column(l.w3, kTensorRow2)), true};
  if (at < l.weight) return vector(args.b3, D, l.b3);
  return vector(args.feature_weight, D, l.weight);
}

// A face's place in a warp.
struct TensorSlot {
  FitSchedule schedule;
  int64_t face;   // -1: empty
  int64_t left;   // steps it may still take
  int32_t steps;  // taken so far, by any call
  int32_t state;
  float step_size, rsqrt_correction2;  // of the step being taken
};
enum TensorSlotState : int32_t { kPlaceEmpty, kPlaceFresh, kPlaceRunning, kPlaceStepping, kPlaceRetired };

constexpr int kTensorMaxWarps = 8;  // of a block: 255 registers a thread
constexpr int kParkedSlopes = 16;   // registers of a lane that wait in shared memory; beside 8 warps there is
                                    // no room for more

// Shared memory of a warp: its faces' places, their theta, the parked slopes. Adam's moments stay in L2.
GENET_HD int64_t tensor_warp_bytes() {
  return int64_t(sizeof(TensorSlot)) * kTensorFaces + 4 * kTensorWidth * kTensorFaces +
         4 * kParkedSlopes * 32;
}

GENET_HD int64_t tensor_shared_bytes(const FitMlpArgs<float>& args, int warps) {
  return tensor_layout(args.features).bytes + warps * tensor_warp_bytes();
}

template <typename Warp>
class FitWarp {
 public:
  // image: the weights; own: this warp's shared memory of tensor_warp_bytes, aligned to 16.
  GENET_TILE_FN FitWarp(const FitMlpArgs<float>& args, const TensorScales& scales, unsigned long long* queue,
                        const unsigned char* image, unsigned char* own, Warp warp)
      : args_(args), scales_(scales), queue_(queue), image_(image), warp_(warp) {
    slots_ = reinterpret_cast<TensorSlot*>(own);
    theta_ = reinterpret_cast<Pair*>(own + sizeof(TensorSlot) * kTensorFaces);
    parked_ = reinterpret_cast<uint32_t*>(theta_ + kPairs * 2 * 32);
  }

  GENET_TILE_FN void search() {
    warp_.each([&](int lane) {
      if (lane < kTensorFaces) slots_[lane].state = kPlaceEmpty, slots_[lane].face = -1;
    });
    warp_.sync();
    while (admit()) {
      Loss loss;
      Rows scale;
      Gradient grad;
      evaluate(loss, scale, grad);
      update(loss, scale, grad);
    }
  }

 private:
  static constexpr int kPairs = kTensorWidth / 8;  // column tiles of theta
  static constexpr int kHiddenTiles = kTensorHidden / 8;
  static constexpr int kThetaSteps = kTensorWidth / 16;  // products along theta
  static constexpr int kHiddenSteps = kTensorHidden / 16;

  struct alignas(8) Pair {
    float v[2];
  };
  template <typename U, int kCount>
  using PerLane = typename Warp::template PerLane<U, kCount>;
  using Rows = PerLane<float, 2>;  // one number for each of a lane's two rows
  using Loss = Rows;
  using Gradient = PerLane<float, 4 * kPairs>;      // accumulators of [16, kTensorWidth]: 4 j + 2 h + column
  using Hidden = PerLane<float, 4 * kHiddenTiles>;  // of [16, 128]
  using HiddenHalf = PerLane<uint32_t, 2 * kHiddenTiles>;  // the same rounded: 2 j + h, both columns
  using ThetaHalf = PerLane<uint32_t, 2 * kPairs>;
  using Slopes = HiddenHalf;
  using Fragment = PerLane<uint32_t, 4>;  // right operand of two neighbouring products

  GENET_TILE_FN TensorLayout layout() const { return tensor_layout(args_.features); }
  GENET_TILE_FN const uint16_t* matrix(int at) const {
    return reinterpret_cast<const uint16_t*>(image_ + at);
  }
  GENET_TILE_FN const float* vector(int at) const { return reinterpret_cast<const float*>(image_ + at); }

  static GENET_TILE_FN int row_of(int lane, int h) { return lane / 4 + 8 * h; }
  static GENET_TILE_FN int column_of(int lane, int j) { return 8 * j + lane % 4 * 2; }

  // A lane's pairs of theta lie in shared memory, lane by lane.
  GENET_TILE_FN Pair& theta(int lane, int j, int h) const { return theta_[(j * 2 + h) * 32 + lane]; }
  // The same pair of a [B, P] array.
  template <typename U>
  GENET_TILE_FN U* pair_of(U* array, int64_t face, int lane, int j) const {
    return array + face * args_.width + column_of(lane, j);
  }
  static GENET_TILE_FN Pair load(const float* p) { return *reinterpret_cast<const Pair*>(p); }
  static GENET_TILE_FN void store(float* p, Pair pair) { *reinterpret_cast<Pair*>(p) = pair; }
  // Empty places compute along on the first face's numbers; nothing of it is kept.
  GENET_TILE_FN int64_t face_or_first(int lane, int h) const {
    const int64_t face = slots_[row_of(lane, h)].face;
    return face < 0 ? 0 : face;
  }

  // Empty places take the next faces of the queue. False when there is nothing left to do.
  GENET_TILE_FN bool admit() {
    warp_.each([&](int lane) {
      if (lane >= kTensorFaces) return;
      TensorSlot& slot = slots_[lane];
      if (slot.state != kPlaceEmpty && slot.state != kPlaceRetired) {
        slot.state = kPlaceRunning;
        return;
      }
      slot.state = kPlaceEmpty;
      slot.face = -1;
      const int64_t face = int64_t(warp_.take(queue_));
      if (face >= args_.batch) return;
      slot.face = face;
      slot.left = args_.active[face] ? args_.n_iter : 0;
      slot.steps = args_.step[face];
      slot.schedule = fit_schedule(args_, slot.steps);
      slot.state = kPlaceFresh;
    });
    warp_.sync();
    if (!warp_.any([&](int lane) { return lane < kTensorFaces && slots_[lane].face >= 0; })) return false;
    warp_.each([&](int lane) {
      for (int h = 0; h < 2; ++h) {
        const TensorSlot& slot = slots_[row_of(lane, h)];
        if (slot.state != kPlaceFresh && slot.state != kPlaceEmpty) continue;
        for (int j = 0; j < kPairs; ++j) {
          const bool real = slot.face >= 0 && 8 * j < args_.width;
          theta(lane, j, h) = real ? load(pair_of(args_.params, slot.face, lane, j)) : Pair{{0, 0}};
        }
      }
    });
    return true;
  }

  // out += left [16, 16 kSteps] matrix^T, matrix [8 tiles][kRow]: the forward direction of a layer.
  template <int kSteps, int kTiles, int kRow, typename Left, typename Out>
  GENET_TILE_FN void product(const uint16_t* weights, const Left& left, int left_first, Out& out) const {
    GENET_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      GENET_UNROLL
      for (int n = 0; n < kTiles; n += 2) {
        Fragment right;
        warp_.template load_matrices<false>(right, [&](int lane) {
          const int m = lane / 8;
          return weights + (8 * n + 8 * (m / 2) + lane % 8) * kRow + 16 * k + 8 * (m % 2);
        });
        warp_.multiply(out, 4 * n, left, left_first + 4 * k, right, 0);
        warp_.multiply(out, 4 * n + 4, left, left_first + 4 * k, right, 2);
      }
    }
  }

  // out += left [16, 16 kSteps] matrix, matrix [16 kSteps][kRow]: the backward direction.
  template <int kSteps, int kTiles, int kRow, typename Left, typename Out>
  GENET_TILE_FN void product_back(const uint16_t* weights, const Left& left, int left_first, Out& out) const {
    GENET_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      GENET_UNROLL
      for (int n = 0; n < kTiles; n += 2) {
        Fragment right;
        warp_.template load_matrices<true>(right, [&](int lane) {
          const int m = lane / 8;
          return weights + (16 * k + 8 * (m % 2) + lane % 8) * kRow + 8 * n + 8 * (m / 2);
        });
        warp_.multiply(out, 4 * n, left, left_first + 4 * k, right, 0);
        warp_.multiply(out, 4 * n + 4, left, left_first + 4 * k, right, 2);
      }
    }
  }

  // Every row of the accumulators = bias.
  template <int kTiles, typename Out>
  GENET_TILE_FN void start(Out& out, const float* bias) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const Pair b = load(bias + column_of(lane, j));
        out(lane, 4 * j) = out(lane, 4 * j + 2) = b.v[0];
        out(lane, 4 * j + 1) = out(lane, 4 * j + 3) = b.v[1];
      }
    });
  }
  template <typename Out>
  GENET_TILE_FN void clear(Out& out, int count) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < count; ++i) out(lane, i) = 0;
    });
  }

  // Pre-activations -> activations and slopes, rounded.
  GENET_TILE_FN void activate(const Hidden& z, HiddenHalf& activation, Slopes& slopes) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < 2 * kHiddenTiles; ++i) {
        float a[2], slope[2];
        GENET_UNROLL
        for (int c = 0; c < 2; ++c) {
          const float x = z(lane, 2 * i + c);  // algebraic_silu, with the hardware's reciprocal root
          const float s = Warp::rsqrt(fused_multiply_add(x, x, 1.0f));
          const float u = x * s, half_x = 0.5f * x;
          a[c] = fused_multiply_add(half_x, u, half_x);
          slope[c] = fused_multiply_add(0.5f * u, fused_multiply_add(s, s, 1.0f), 0.5f);
        }
        activation(lane, i) = Warp::pack(a[0], a[1]);
        slopes(lane, i) = Warp::pack(slope[0], slope[1]);
      }
    });
  }

  // Gradient by activations -> gradient by pre-activations, rounded.
  GENET_TILE_FN void through_slopes(const Hidden& grad, const Slopes& slopes, HiddenHalf& out) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < 2 * kHiddenTiles; ++i) {
        float slope[2];
        Warp::unpack(slopes(lane, i), slope[0], slope[1]);
        out(lane, i) = Warp::pack(grad(lane, 2 * i) * slope[0], grad(lane, 2 * i + 1) * slope[1]);
      }
    });
  }

  using Chunk = PerLane<float, kTensorChunk / 2>;  // accumulators of [16, kTensorChunk]
  using ChunkHalf = PerLane<uint32_t, kTensorChunk / 4>;

  GENET_TILE_FN void load_target(Chunk& target, int first) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float* row = args_.target + face_or_first(lane, h) * args_.features;
        GENET_UNROLL
        for (int j = 0; j < kTensorChunk / 8; ++j) {
          const int d = first + 8 * j;
          const Pair t = d < args_.features ? load(row + d + lane % 4 * 2) : Pair{{0, 0}};
          target(lane, 4 * j + 2 * h) = t.v[0];
          target(lane, 4 * j + 2 * h + 1) = t.v[1];
        }
      }
    });
  }

  GENET_TILE_FN void predict(const HiddenHalf& hidden, int first, Chunk& pred) const {
    start<kTensorChunk / 8>(pred, vector(layout().b3) + first);
    product<kHiddenSteps, kTensorChunk / 8, kTensorRow2>(matrix(layout().w3) + first * kTensorRow2, hidden, 0,
                                                         pred);
  }

  // slope(pred, target, weight, row h of the lane, loss) is the gradient by one predicted feature. Everything
  // between the second hidden layer and the gradient by it, which is `back`.
  template <typename Slope>
  GENET_TILE_FN void last_layer(const HiddenHalf& hidden, const Rows& scale, Loss& loss, Hidden& back,
                                Slope slope) const {
    clear(back, 4 * kHiddenTiles);
    const int features = layout().features;
    GENET_NO_UNROLL
    for (int first = 0; first < features; first += kTensorChunk) {
      Chunk pred, target;
      predict(hidden, first, pred);
      load_target(target, first);
      ChunkHalf grad;
      warp_.each([&](int lane) {
        GENET_UNROLL
        for (int j = 0; j < kTensorChunk / 8; ++j) {
          const Pair w = load(vector(layout().weight) + first + column_of(lane, j));
          GENET_UNROLL
          for (int h = 0; h < 2; ++h) {
            float g[2];
            GENET_UNROLL
            for (int c = 0; c < 2; ++c) {
              const int i = 4 * j + 2 * h + c;
              g[c] = slope(lane, h, pred(lane, i), target(lane, i), w.v[c], loss(lane, h)) * scale(lane, h);
            }
            grad(lane, 2 * j + h) = Warp::pack(g[0], g[1]);
          }
        }
      });
      product_back<kTensorChunk / 16, kHiddenTiles, kTensorRow2>(matrix(layout().w3) + first * kTensorRow2,
                                                                 grad, 0, back);
    }
  }

  template <Distance kind>
  GENET_TILE_FN void distance(const HiddenHalf& hidden, Rows& scale, Loss& loss, Hidden& back) const {
    warp_.each([&](int lane) {
      loss(lane, 0) = loss(lane, 1) = 0, scale(lane, 0) = scale(lane, 1) = scales_.gradient;
    });
    last_layer(hidden, scale, loss, back, [&](int, int, float pred, float target, float w, float& sum) {
      const float residual = pred - target;
      sum = fused_multiply_add(w, distance_rho<kind>(residual, args_.delta), sum);
      return w * distance_slope<kind>(residual, args_.delta);
    });
    warp_.quad_sum(loss);
  }

  // Two passes: the gradient needs the inner products of all features.
  GENET_TILE_FN void cosine(const HiddenHalf& hidden, Rows& scale, Loss& loss, Hidden& back) const {
    PerLane<float, 2> dot, pred_sq, target_sq, on_pred, on_target;
    clear(dot, 2), clear(pred_sq, 2), clear(target_sq, 2);
    const int features = layout().features;
    GENET_NO_UNROLL
    for (int first = 0; first < features; first += kTensorChunk) {
      Chunk pred, target;
      predict(hidden, first, pred);
      load_target(target, first);
      warp_.each([&](int lane) {
        GENET_UNROLL
        for (int i = 0; i < kTensorChunk / 2; ++i) {
          const int h = i / 2 % 2;
          const float p = pred(lane, i), t = target(lane, i),
                      w = vector(layout().weight)[first + column_of(lane, i / 4) + i % 2];
          dot(lane, h) = fused_multiply_add(w * p, t, dot(lane, h));
          pred_sq(lane, h) = fused_multiply_add(w * p, p, pred_sq(lane, h));
          target_sq(lane, h) = fused_multiply_add(w * t, t, target_sq(lane, h));
        }
      });
    }
    warp_.quad_sum(dot), warp_.quad_sum(pred_sq), warp_.quad_sum(target_sq);
    PerLane<float, 2> whole;
    warp_.each([&](int lane) {
      for (int h = 0; h < 2; ++h) {
        const CosineFactors<float> f = cosine_factors(dot(lane, h), pred_sq(lane, h), target_sq(lane, h));
        on_pred(lane, h) = f.on_pred, on_target(lane, h) = f.on_target, whole(lane, h) = f.loss;
        // |gradient| is at most about root(weight) / |pred|
        const float size = scales_.weight_root > 0 ? std::sqrt(pred_sq(lane, h)) / scales_.weight_root : 1.0f;
        scale(lane, h) = size > 1e-30f && size < 1e30f ? 0.03125f * power_of_two_below(size) : 1.0f;
      }
    });
    last_layer(hidden, scale, loss, back, [&](int lane, int h, float pred, float target, float w, float&) {
      return w * (on_pred(lane, h) * pred - on_target(lane, h) * target);
    });
    warp_.each([&](int lane) { loss(lane, 0) = whole(lane, 0), loss(lane, 1) = whole(lane, 1); });
  }

  // The objective without the rate's part, and its gradient by theta times `scale`.
  GENET_TILE_FN void evaluate(Loss& loss, Rows& scale, Gradient& grad) const {
    HiddenHalf hidden;
    Slopes slopes1, slopes2;
    Hidden wide;
    ThetaHalf rounded;
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < 2 * kPairs; ++i) {
        const Pair x = theta(lane, i / 2, i % 2);
        rounded(lane, i) = Warp::pack(x.v[0], x.v[1]);
      }
    });
    start<kHiddenTiles>(wide, vector(layout().b1));
    product<kThetaSteps, kHiddenTiles, kTensorRow1>(matrix(layout().w1), rounded, 0, wide);
    activate(wide, hidden, slopes1);
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < kParkedSlopes; ++i) parked_[i * 32 + lane] = slopes1(lane, i);
    });
    start<kHiddenTiles>(wide, vector(layout().b2));
    product<kHiddenSteps, kHiddenTiles, kTensorRow2>(matrix(layout().w2), hidden, 0, wide);
    activate(wide, hidden, slopes2);
    switch (args_.kind) {
      case Distance::kSquared: distance<Distance::kSquared>(hidden, scale, loss, wide); break;
      case Distance::kL1: distance<Distance::kL1>(hidden, scale, loss, wide); break;
      case Distance::kHuber: distance<Distance::kHuber>(hidden, scale, loss, wide); break;
      case Distance::kCosine: cosine(hidden, scale, loss, wide); break;
    }
    through_slopes(wide, slopes2, hidden);
    clear(wide, 4 * kHiddenTiles);
    product_back<kHiddenSteps, kHiddenTiles, kTensorRow2>(matrix(layout().w2), hidden, 0, wide);
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < kParkedSlopes; ++i) slopes1(lane, i) = parked_[i * 32 + lane];
    });
    through_slopes(wide, slopes1, hidden);
    prior(loss, scale, grad);
    product_back<kHiddenSteps, kPairs, kTensorRow1>(matrix(layout().w1), hidden, 0, grad);
  }

  GENET_TILE_FN Pair prior_offset(int lane, int j, int h, const float* mean) const {
    const Pair x = theta(lane, j, h);
    const Pair m = 8 * j < args_.width ? load(mean + column_of(lane, j)) : Pair{{0, 0}};
    return {{x.v[0] - m.v[0], x.v[1] - m.v[1]}};
  }

  // grad = scale precision (theta - mean); loss grows by the prior's energy. The offsets are computed twice
  // rather than kept: registers are short here.
  GENET_TILE_FN void prior(Loss& loss, const Rows& scale, Gradient& grad) const {
    ThetaHalf half;
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float* mean = args_.prior_mean + face_or_first(lane, h) * args_.width;
        const float factor = scale(lane, h) * scales_.prior;
        GENET_UNROLL
        for (int j = 0; j < kPairs; ++j) {
          const Pair offset = prior_offset(lane, j, h, mean);
          half(lane, 2 * j + h) = Warp::pack(offset.v[0] * factor, offset.v[1] * factor);
        }
      }
    });
    clear(grad, 4 * kPairs);
    product<kThetaSteps, kPairs, kTensorRow1>(matrix(layout().prior), half, 0, grad);
    Rows energy;
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float* mean = args_.prior_mean + face_or_first(lane, h) * args_.width;
        float sum = 0;
        GENET_UNROLL
        for (int j = 0; j < kPairs; ++j) {
          const Pair offset = prior_offset(lane, j, h, mean);
          sum = fused_multiply_add(offset.v[0], grad(lane, 4 * j + 2 * h), sum);
          sum = fused_multiply_add(offset.v[1], grad(lane, 4 * j + 2 * h + 1), sum);
        }
        energy(lane, h) = sum;
      }
    });
    warp_.quad_sum(energy);
    warp_.each([&](int lane) {
      for (int h = 0; h < 2; ++h) loss(lane, h) += 0.5f * energy(lane, h) / scale(lane, h);
    });
  }

  // Retires the faces that are done or failed, steps the others.
  GENET_TILE_FN void update(Loss& loss, const Rows& scale, Gradient& grad) {
    Rows probe, rates;
    clear(probe, 2), clear(rates, 2);
    warp_.each([&](int lane) {
      const float unscale[2] = {1.0f / scale(lane, 0), 1.0f / scale(lane, 1)};
      GENET_UNROLL
      for (int j = 0; j < kPairs; ++j) {
        if (8 * j >= args_.width) break;
        const Pair rate = load(args_.prior_rate + column_of(lane, j));
        GENET_UNROLL
        for (int h = 0; h < 2; ++h) {
          const Pair x = theta(lane, j, h);
          GENET_UNROLL
          for (int c = 0; c < 2; ++c) {
            float& g = grad(lane, 4 * j + 2 * h + c);
            g = add_rate_gradient(g * unscale[h], x.v[c], rate.v[c]);
            probe(lane, h) += finite_probe(g);
            rates(lane, h) = fused_multiply_add(rate.v[c], std::abs(x.v[c]), rates(lane, h));
          }
        }
      }
    });
    warp_.quad_sum(probe), warp_.quad_sum(rates);
    warp_.each([&](int lane) {
      if (lane % 4 != 0) return;
      for (int h = 0; h < 2; ++h)
        decide(slots_[row_of(lane, h)], loss(lane, h) + rates(lane, h), probe(lane, h));
    });
    warp_.sync();
    Rows change;
    clear(change, 2);
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const TensorSlot& slot = slots_[row_of(lane, h)];
        if (slot.state == kPlaceStepping) step(lane, h, slot, grad, change(lane, h));
        if (slot.state == kPlaceRetired) write_back(lane, h, slot.face);
      }
    });
    warp_.quad_max(change);
    warp_.each([&](int lane) {
      if (lane % 4 != 0) return;
      for (int h = 0; h < 2; ++h) {
        TensorSlot& slot = slots_[row_of(lane, h)];
        if (slot.state != kPlaceStepping) continue;
        slot.steps += 1;
        slot.left -= 1;
        if (change(lane, h) < args_.tol) {
          slot.left = 0;
          args_.active[slot.face] = false;
        }
      }
    });
    warp_.sync();
  }

  // One thread a face: what comes after this evaluation.
  GENET_TILE_FN void decide(TensorSlot& slot, float loss, float probe) const {
    if (slot.face < 0) return;
    const bool finite_loss = finite_probe(loss) == 0;
    const bool finite = finite_loss && probe == 0;
    if (slot.left > 0 && finite) {
      const AdamCoefficients<float> step = next_step(args_, slot.schedule);
      slot.step_size = step.step_size;
      slot.rsqrt_correction2 = 1.0f / step.correction2_sqrt;
      slot.state = kPlaceStepping;
      return;
    }
    if (slot.left > 0) args_.active[slot.face] = false;
    args_.loss[slot.face] = finite_loss && (slot.left == 0 || finite) ? loss : NAN;
    args_.step[slot.face] = slot.steps;
    slot.state = kPlaceRetired;
  }

  // adam_element for a lane's part of one row, with the hardware's root and division (2 units in the last
  // place).
  GENET_TILE_FN void step(int lane, int h, const TensorSlot& slot, const Gradient& grad,
                          float& largest) const {
    const float size = slot.step_size, correction = slot.rsqrt_correction2;
    const float keep1 = float(1.0 - args_.beta1), beta2 = float(args_.beta2),
                keep2 = float(1.0 - args_.beta2);
    const float eps = float(args_.eps);
    GENET_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      if (8 * j >= args_.width) break;
      const Pair lower = load(args_.lower + column_of(lane, j)),
                 upper = load(args_.upper + column_of(lane, j));
      float* const m_at = pair_of(args_.exp_avg, slot.face, lane, j);
      float* const v_at = pair_of(args_.exp_avg_sq, slot.face, lane, j);
      Pair x = theta(lane, j, h), m = load(m_at), v = load(v_at);
      GENET_UNROLL
      for (int c = 0; c < 2; ++c) {
        const float g = grad(lane, 4 * j + 2 * h + c);
        m.v[c] = fused_multiply_add(keep1, g - m.v[c], m.v[c]);
        v.v[c] = fused_multiply_add(keep2 * g, g, beta2 * v.v[c]);
        const float root = fused_multiply_add(Warp::sqrt(v.v[c]), correction, eps);
        const float moved = fused_multiply_add(-size, Warp::divide(m.v[c], root), x.v[c]);
        const float next = project(moved, lower.v[c], upper.v[c]);
        const float by = std::abs(next - x.v[c]);
        largest = by > largest ? by : largest;
        x.v[c] = next;
      }
      theta(lane, j, h) = x;
      store(m_at, m), store(v_at, v);
    }
  }

  GENET_TILE_FN void write_back(int lane, int h, int64_t face) const {
    for (int j = 0; j < kPairs && 8 * j < args_.width; ++j) {
      store(pair_of(args_.params, face, lane, j), theta(lane, j, h));
    }
  }

  const FitMlpArgs<float>& args_;
  const TensorScales scales_;
  unsigned long long* queue_;
  const unsigned char* image_;  // shared
  Warp warp_;
  TensorSlot* slots_;  // [16], shared
  Pair* theta_;        // [kPairs][2][32], shared
  volatile uint32_t*
      parked_;  // [kParkedSlopes][32], shared; volatile, or the compiler keeps a copy in registers
};

}  // namespace genet
