// The tensor-core CUDA search (precision "tensor"): a warp keeps 16 faces and iterates until the queue of
// faces is empty. On Hopper four warps form a group that multiplies its 64 faces with one wgmma instruction
// at a time and so leaves the queue together; elsewhere a warp is on its own with mma.sync. Also compiled for
// the CPU, where EmulatedWarp and EmulatedGroupWarp run the 32 lanes in lock-step, float16 rounding included.
//
// The weights lie in shared memory once, in float16, as blocks of 8 x 8: what ldmatrix and wgmma both read
// without bank conflicts, and both also transposed, for the backward pass. Activations never leave the
// registers: a product's accumulators, rounded to float16 and paired, are the next product's left operand.
// The last layer is fused with the distance: a chunk of features at a time is computed, turned into gradients
// and multiplied back, so the predicted features are never stored.
//
// Gradients are scaled by a power of two per face before they are rounded to float16: feature weights of any
// size keep their digits, residuals up to 2^20 do not overflow. An overflow is a gradient that is not finite:
// the face fails. Adam's state and update are float32.
//
// Who holds what: a lane holds, of rows (faces) g = lane / 4 and g + 8, the accumulator columns 8 j + 2 t and
// 8 j + 2 t + 1 with t = lane % 4. Columns are renamed within every 16 (tensor_column), weights, biases and
// all, so that these are 4 consecutive columns of the arrays in memory for a pair of j: one 16-byte access.
#pragma once

#include "fit_mlp_tile.h"

namespace genet {

constexpr int kTensorFaces = 16;     // of a warp: the rows of one tensor-core product
constexpr int kTensorWidth = 96;     // likewise; 128 would not fit the registers
constexpr int kTensorHidden = 128;   // narrower layers are padded with zeros
constexpr int kTensorFeatures = 64;  // the features are padded to a multiple
constexpr int kTensorGroup = 4;      // warps that share a Hopper wgmma

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
  const void* const arrays[] = {args.params, args.exp_avg, args.exp_avg_sq, args.target, args.prior_mean};
  for (const void* array : arrays) {
    if (reinterpret_cast<uintptr_t>(array) % 16 != 0) {
      return "params, exp_avg, exp_avg_sq, target and prior_mean aligned to 16 bytes";
    }
  }
  return nullptr;
}

// The weights as they lie in shared memory (and, ready for copying, in the workspace): float16 matrices
// [outputs][inputs] in blocks, and float32 vectors. What depends on the number of features comes last, so
// that the other places are known to the compiler.
struct TensorLayout {
  int features;                                                           // padded to whole chunks
  int w1, w2, prior, b1, b2, lower, upper, rate, scales, w3, b3, weight;  // offsets in bytes
  int bytes;
};

GENET_HD constexpr TensorLayout tensor_layout(int features) {
  TensorLayout l{};
  l.features = round_up(features, kTensorFeatures);
  l.w1 = 0;
  l.w2 = l.w1 + 2 * kTensorHidden * kTensorWidth;
  l.prior = l.w2 + 2 * kTensorHidden * kTensorHidden;
  l.b1 = l.prior + 2 * kTensorWidth * kTensorWidth;
  l.b2 = l.b1 + 4 * kTensorHidden;
  l.lower = l.b2 + 4 * kTensorHidden;
  l.upper = l.lower + 4 * kTensorWidth;
  l.rate = l.upper + 4 * kTensorWidth;
  l.scales = l.rate + 4 * kTensorWidth;
  l.w3 = l.scales + 16;
  l.b3 = l.w3 + 2 * l.features * kTensorHidden;
  l.weight = l.b3 + 4 * l.features;
  l.bytes = l.weight + 4 * l.features;
  return l;
}

// Where a row or column of a product lies in the arrays: place 16 i + 8 e + 2 t + c holds 16 i + 4 t + 2 e +
// c.
GENET_HD constexpr int tensor_column(int place) {
  return place / 16 * 16 + place % 8 / 2 * 4 + place / 8 % 2 * 2 + place % 2;
}

// A matrix in blocks of 8 rows and 8 columns, 128 bytes each, one row of blocks after the other.
template <int kColumns>
struct TensorMatrix {
  static constexpr int kAlong = 64;                  // float16s from a block to the next of the same rows
  static constexpr int kAcross = kColumns / 8 * 64;  // and to the next of the same columns
  const uint16_t* blocks;

  // The 8 elements of one line of a block.
  GENET_HD const uint16_t* row(int down, int across, int line) const {
    return blocks + down * kAcross + across * kAlong + line * 8;
  }
};

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

// What lies at byte `at` of the image: a float16 (before it is rounded) or a float32.
struct TensorElement {
  float value;
  bool half;
};

GENET_HD TensorElement tensor_image(const FitMlpArgs<float>& args, const TensorScales& scales, int at) {
  const TensorLayout l = tensor_layout(args.features);
  const int P = args.width, H1 = args.hidden1, H2 = args.hidden2, D = args.features;
  const auto matrix = [&](const float* source, int outputs, int inputs, int begin, int columns) {
    const int i = (at - begin) / 2, block = i / 64, blocks = columns / 8;
    const int n = tensor_column(block / blocks * 8 + i % 64 / 8);
    const int k = tensor_column(block % blocks * 8 + i % 8);
    return TensorElement{n < outputs && k < inputs ? source[n * inputs + k] : 0, true};
  };
  const auto vector = [&](const float* source, int count, int begin) {
    const int i = (at - begin) / 4;
    return TensorElement{i < count ? source[i] : 0, false};
  };
  if (at < l.w2) return matrix(args.w1, H1, P, l.w1, kTensorWidth);
  if (at < l.prior) return matrix(args.w2, H2, H1, l.w2, kTensorHidden);
  if (at < l.b1) {
    return {matrix(args.prior_precision, P, P, l.prior, kTensorWidth).value / scales.prior, true};
  }
  if (at < l.b2) return vector(args.b1, H1, l.b1);
  if (at < l.lower) return vector(args.b2, H2, l.b2);
  if (at < l.upper) return vector(args.lower, P, l.lower);
  if (at < l.rate) return vector(args.upper, P, l.upper);
  if (at < l.scales) return vector(args.prior_rate, P, l.rate);
  if (at < l.w3) return vector(&scales.prior, 3, l.scales);
  if (at < l.b3) return matrix(args.w3, D, H2, l.w3, kTensorHidden);
  if (at < l.weight) return vector(args.b3, D, l.b3);
  const TensorElement weight = vector(args.feature_weight, D, l.weight);
  return args.kind == Distance::kCosine ? weight : TensorElement{weight.value * scales.gradient, false};
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
enum TensorSlotState : int32_t {
  kPlaceEmpty,    // to take its first face
  kPlaceFresh,    // has just taken one
  kPlaceRunning,  // steps or retires in this iteration
  kPlaceStepping,
  kPlaceRetired,
  kPlaceClosed  // the queue is empty; what is computed here meets nobody
};

constexpr int kTensorMaxWarps = 8;  // of a block: 255 registers a thread
constexpr int kParkedSlopes = 28;   // registers of a lane that wait in shared memory; beside 8 warps there is
                                    // no room for more

// Shared memory of a warp: its faces' places, their theta, the parked slopes. Adam's moments stay in L2.
GENET_HD int64_t tensor_warp_bytes() {
  return int64_t(sizeof(TensorSlot)) * kTensorFaces + 4 * kTensorWidth * kTensorFaces +
         4 * kParkedSlopes * 32;
}

GENET_HD int64_t tensor_shared_bytes(const FitMlpArgs<float>& args, int warps) {
  return tensor_layout(args.features).bytes + warps * tensor_warp_bytes();
}

// out += left [16, 16 kSteps] times a matrix, by mma.sync: a forward layer with the matrix [8 kTiles, 16
// kSteps] transposed; kBack, a backward one, with the matrix [16 kSteps, 8 kTiles] as it is.
template <bool kBack, int kSteps, int kTiles, typename Warp, typename Out, typename Left, typename Matrix>
GENET_TILE_FN void product_by_fragments(const Warp& warp, Out& out, const Left& left, const Matrix& matrix) {
  GENET_UNROLL
  for (int k = 0; k < kSteps; ++k) {
    GENET_UNROLL
    for (int n = 0; n < kTiles; n += 2) {
      typename Warp::template PerLane<uint32_t, 4> right;  // of two neighbouring products
      warp.template load_matrices<kBack>(right, [&](int lane) {
        const int m = lane / 8;
        return kBack ? matrix.row(2 * k + m % 2, n + m / 2, lane % 8)
                     : matrix.row(n + m / 2, 2 * k + m % 2, lane % 8);
      });
      warp.multiply(out, 4 * n, left, 4 * k, right, 0);
      warp.multiply(out, 4 * n + 4, left, 4 * k, right, 2);
    }
  }
}

// The right operand of one wgmma as its descriptor says it: where the blocks begin, and the float16s from a
// block to the next along the sum and along the outputs.
struct TensorOperand {
  const uint16_t* blocks;
  int along_sum, along_outputs;
};

// The same product by wgmma, for the four warps of a group at once.
template <bool kBack, int kSteps, int kTiles, typename Warp, typename Out, typename Left, typename Matrix>
GENET_TILE_FN void product_by_group(const Warp& warp, Out& out, const Left& left, const Matrix& matrix) {
  const int along_sum = kBack ? Matrix::kAcross : Matrix::kAlong;
  const int along_outputs = kBack ? Matrix::kAlong : Matrix::kAcross;
  GENET_UNROLL
  for (int k = 0; k < kSteps; ++k) {
    const TensorOperand right{matrix.blocks + 2 * k * along_sum, along_sum, along_outputs};
    warp.template group_multiply<kBack, kTiles>(out, left, 4 * k, right);
  }
}

template <typename Warp>
class FitWarp {
 public:
  // image: the weights; own: this warp's shared memory of tensor_warp_bytes, aligned to 16.
  GENET_TILE_FN FitWarp(const FitMlpArgs<float>& args, unsigned long long* queue, const unsigned char* image,
                        unsigned char* own, Warp warp)
      : args_(args), queue_(queue), image_(image), warp_(warp) {
    slots_ = reinterpret_cast<TensorSlot*>(own);
    theta_ = reinterpret_cast<Quad*>(own + sizeof(TensorSlot) * kTensorFaces);
    parked_ = reinterpret_cast<uint32_t*>(theta_ + kQuads * 2 * 32);
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
      Moments first, second;
      evaluate(loss, scale, grad, first, second);
      update(loss, scale, grad, first, second);
    }
  }

 private:
  static constexpr int kQuads = kTensorWidth / 16;  // a lane's fours of theta, a row
  static constexpr int kHiddenTiles = kTensorHidden / 8;
  static constexpr int kChunk = Warp::kChunk;  // features at a time
  static constexpr int kThetaTiles = kTensorWidth / 8;
  static constexpr int kThetaSteps = kTensorWidth / 16;  // products along theta
  static constexpr int kHiddenSteps = kTensorHidden / 16;

  struct alignas(16) Quad {
    float v[4];
  };
  template <typename U, int kCount>
  using PerLane = typename Warp::template PerLane<U, kCount>;
  using Rows = PerLane<float, 2>;  // one number for each of a lane's two rows
  using Loss = Rows;
  using Gradient = PerLane<float, 4 * kThetaTiles>;  // accumulators of [16, kTensorWidth]: 4 j + 2 h + column
  using Moments = Gradient;
  using Hidden = PerLane<float, 4 * kHiddenTiles>;         // of [16, 128]
  using HiddenHalf = PerLane<uint32_t, 2 * kHiddenTiles>;  // the same rounded: 2 j + h, both columns
  using ThetaHalf = PerLane<uint32_t, 2 * kThetaTiles>;
  using Slopes = HiddenHalf;
  using WidthMatrix = TensorMatrix<kTensorWidth>;
  using HiddenMatrix = TensorMatrix<kTensorHidden>;

  GENET_TILE_FN TensorLayout layout() const { return tensor_layout(args_.features); }
  GENET_TILE_FN const uint16_t* matrix(int at) const {
    return reinterpret_cast<const uint16_t*>(image_ + at);
  }
  GENET_TILE_FN const float* vector(int at) const { return reinterpret_cast<const float*>(image_ + at); }
  GENET_TILE_FN const TensorScales& scales() const {  // volatile: no register keeps them
    return *reinterpret_cast<const TensorScales*>(image_ + layout().scales);
  }

  static GENET_TILE_FN int row_of(int lane, int h) { return lane / 4 + 8 * h; }
  // First of the 4 columns that a lane holds of columns 16 i to 16 i + 15, and the accumulator of one of
  // them.
  static GENET_TILE_FN int column_of(int lane, int i) { return 16 * i + lane % 4 * 4; }
  static GENET_TILE_FN int place_of(int i, int h, int c) { return 4 * (2 * i + c / 2) + 2 * h + c % 2; }

  // A lane's part of theta lies in shared memory, lane by lane.
  GENET_TILE_FN Quad& theta(int lane, int i, int h) const { return theta_[(i * 2 + h) * 32 + lane]; }
  static GENET_TILE_FN Quad load(const float* p) { return *reinterpret_cast<const Quad*>(p); }
  // Four elements of a row of a [B, width] array; zeros beyond its last column (the width is a multiple of
  // 8).
  static GENET_TILE_FN Quad load_within(const float* row, int column, int width) {
    return column < width ? load(row + column) : Quad{{0, 0, 0, 0}};
  }
  static GENET_TILE_FN void store_within(float* row, int column, int width, const Quad& value) {
    if (column < width) *reinterpret_cast<Quad*>(row + column) = value;
  }
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
      if (slot.state == kPlaceClosed) return;
      if (slot.state != kPlaceEmpty && slot.state != kPlaceRetired) {
        slot.state = kPlaceRunning;
        return;
      }
      slot.state = kPlaceClosed;
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
    warp_.each([&](int lane) {
      for (int h = 0; h < 2; ++h) {
        const TensorSlot& slot = slots_[row_of(lane, h)];
        if (slot.state != kPlaceFresh) continue;
        for (int i = 0; i < kQuads; ++i) {
          theta(lane, i, h) =
              load_within(args_.params + slot.face * args_.width, column_of(lane, i), args_.width);
        }
      }
    });
    warp_.sync();  // the places have been read: update() may change them
    return warp_.any([&](int lane) { return lane < kTensorFaces && slots_[lane].face >= 0; });
  }

  // A lane's part of a [B, width] array in the accumulators' order.
  GENET_TILE_FN void load_rows(Moments& out, const float* array) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float* row = array + face_or_first(lane, h) * args_.width;
        GENET_UNROLL
        for (int i = 0; i < kQuads; ++i) {
          const Quad quad = load_within(row, column_of(lane, i), args_.width);
          GENET_UNROLL
          for (int c = 0; c < 4; ++c) out(lane, place_of(i, h, c)) = quad.v[c];
        }
      }
    });
  }

  // Every row of the accumulators = bias.
  template <int kTiles, typename Out>
  GENET_TILE_FN void start(Out& out, const float* bias) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < kTiles / 2; ++i) {
        const Quad b = load(bias + column_of(lane, i));
        GENET_UNROLL
        for (int c = 0; c < 4; ++c) out(lane, place_of(i, 0, c)) = out(lane, place_of(i, 1, c)) = b.v[c];
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
          const float half_x = 0.5f * x, half_u = half_x * s;
          a[c] = fused_multiply_add(x, half_u, half_x);
          slope[c] = fused_multiply_add(half_u, fused_multiply_add(s, s, 1.0f), 0.5f);
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

  using Chunk = PerLane<float, kChunk / 2>;  // accumulators of [16, kChunk]
  using ChunkHalf = PerLane<uint32_t, kChunk / 4>;

  GENET_TILE_FN void load_target(Chunk& target, int first) const {
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float* row = args_.target + face_or_first(lane, h) * args_.features;
        GENET_UNROLL
        for (int i = 0; i < kChunk / 16; ++i) {
          const Quad quad = load_within(row, first + column_of(lane, i), args_.features);
          GENET_UNROLL
          for (int c = 0; c < 4; ++c) target(lane, place_of(i, h, c)) = quad.v[c];
        }
      }
    });
  }

  GENET_TILE_FN HiddenMatrix last_weights(int first) const {
    return {matrix(layout().w3) + first * kTensorHidden};
  }

  GENET_TILE_FN void predict(const HiddenHalf& hidden, int first, Chunk& pred) const {
    start<kChunk / 8>(pred, vector(layout().b3) + first);
    warp_.template product<false, kHiddenSteps, kChunk / 8>(pred, hidden, last_weights(first));
  }

  // Everything between the second hidden layer and the gradient by it, which is `back`. gradient(lane, h,
  // pred, target, weight) is the one by a predicted feature of row h, scaled; what it sees of the loss it
  // keeps.
  template <typename F>
  GENET_TILE_FN void last_layer(const HiddenHalf& hidden, Chunk& target, Hidden& back, F gradient) const {
    clear(back, 4 * kHiddenTiles);
    const int features = layout().features;
    GENET_NO_UNROLL
    for (int first = 0; first < features; first += kChunk) {
      Chunk pred;
      predict(hidden, first, pred);
      if (!Warp::kRoomForLoads) load_target(target, first);
      ChunkHalf grad;
      warp_.each([&](int lane) {
        GENET_UNROLL
        for (int i = 0; i < kChunk / 16; ++i) {
          const Quad w = load(vector(layout().weight) + first + column_of(lane, i));
          GENET_UNROLL
          for (int h = 0; h < 2; ++h) {
            float g[4];
            GENET_UNROLL
            for (int c = 0; c < 4; ++c) {
              const int at = place_of(i, h, c);
              g[c] = gradient(lane, h, pred(lane, at), target(lane, at), w.v[c]);
            }
            grad(lane, 4 * i + h) = Warp::pack(g[0], g[1]);
            grad(lane, 4 * i + 2 + h) = Warp::pack(g[2], g[3]);
          }
        }
      });
      if (Warp::kRoomForLoads && first + kChunk < features) load_target(target, first + kChunk);
      warp_.template product<true, kChunk / 16, kHiddenTiles>(back, grad, last_weights(first));
    }
  }

  // The weights are scaled already (tensor_image), and with them gradient and loss.
  template <Distance kind>
  GENET_TILE_FN void distance(const HiddenHalf& hidden, Chunk& target, Rows& scale, Loss& loss,
                              Hidden& back) const {
    warp_.each([&](int lane) { loss(lane, 0) = loss(lane, 1) = 0; });
    last_layer(hidden, target, back, [&](int lane, int h, float pred, float t, float w) {
      const float residual = pred - t;
      const float g = w * distance_slope<kind>(residual, args_.delta);
      // The squared distance is half the residual times its slope; the half comes at the end.
      loss(lane, h) = kind == Distance::kSquared
                          ? fused_multiply_add(g, residual, loss(lane, h))
                          : fused_multiply_add(w, distance_rho<kind>(residual, args_.delta), loss(lane, h));
      return g;
    });
    warp_.quad_sum(loss);
    warp_.each([&](int lane) {
      scale(lane, 0) = scale(lane, 1) = scales().gradient;
      for (int h = 0; h < 2; ++h) {
        loss(lane, h) = Warp::divide(kind == Distance::kSquared ? 0.5f * loss(lane, h) : loss(lane, h),
                                     scales().gradient);
      }
    });
  }

  // Two passes: the gradient needs the inner products of all features.
  GENET_TILE_FN void cosine(const HiddenHalf& hidden, Chunk& target, Rows& scale, Loss& loss,
                            Hidden& back) const {
    PerLane<float, 2> dot, pred_sq, target_sq, on_pred, on_target;
    clear(dot, 2), clear(pred_sq, 2), clear(target_sq, 2);
    const int features = layout().features;
    GENET_NO_UNROLL
    for (int first = 0; first < features; first += kChunk) {
      Chunk pred;
      predict(hidden, first, pred);
      if (!Warp::kRoomForLoads) load_target(target, first);
      warp_.each([&](int lane) {
        GENET_UNROLL
        for (int i = 0; i < kChunk / 16; ++i) {
          const Quad weight = load(vector(layout().weight) + first + column_of(lane, i));
          GENET_UNROLL
          for (int h = 0; h < 2; ++h) {
            GENET_UNROLL
            for (int c = 0; c < 4; ++c) {
              const float p = pred(lane, place_of(i, h, c)), t = target(lane, place_of(i, h, c)),
                          w = weight.v[c];
              dot(lane, h) = fused_multiply_add(w * p, t, dot(lane, h));
              pred_sq(lane, h) = fused_multiply_add(w * p, p, pred_sq(lane, h));
              target_sq(lane, h) = fused_multiply_add(w * t, t, target_sq(lane, h));
            }
          }
        }
      });
      const int next = first + kChunk < features ? first + kChunk : 0;
      if (Warp::kRoomForLoads) load_target(target, next);
    }
    warp_.quad_sum(dot), warp_.quad_sum(pred_sq), warp_.quad_sum(target_sq);
    warp_.each([&](int lane) {
      for (int h = 0; h < 2; ++h) {
        const CosineFactors<float> f = cosine_factors(dot(lane, h), pred_sq(lane, h), target_sq(lane, h));
        // |gradient| is at most about root(weight) / |pred|
        const float size =
            scales().weight_root > 0 ? std::sqrt(pred_sq(lane, h)) / scales().weight_root : 1.0f;
        scale(lane, h) = size > 1e-30f && size < 1e30f ? 0.03125f * power_of_two_below(size) : 1.0f;
        on_pred(lane, h) = f.on_pred * scale(lane, h), on_target(lane, h) = f.on_target * scale(lane, h);
        loss(lane, h) = f.loss;
      }
    });
    last_layer(hidden, target, back, [&](int lane, int h, float pred, float t, float w) {
      return w * (on_pred(lane, h) * pred - on_target(lane, h) * t);
    });
  }

  // The objective without the rate's part, and its gradient by theta times `scale`; Adam's moments, whose
  // loads overlap the last product.
  GENET_TILE_FN void evaluate(Loss& loss, Rows& scale, Gradient& grad, Moments& first,
                              Moments& second) const {
    HiddenHalf hidden;
    Slopes slopes1, slopes2;
    Hidden wide;
    ThetaHalf rounded;
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < kQuads; ++i) {
        GENET_UNROLL
        for (int h = 0; h < 2; ++h) {
          const Quad x = theta(lane, i, h);
          rounded(lane, 4 * i + h) = Warp::pack(x.v[0], x.v[1]);
          rounded(lane, 4 * i + 2 + h) = Warp::pack(x.v[2], x.v[3]);
        }
      }
    });
    const WidthMatrix w1{matrix(layout().w1)};
    const HiddenMatrix w2{matrix(layout().w2)};
    start<kHiddenTiles>(wide, vector(layout().b1));
    warp_.template product<false, kThetaSteps, kHiddenTiles>(wide, rounded, w1);
    activate(wide, hidden, slopes1);
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < kParkedSlopes; ++i) parked_[i * 32 + lane] = slopes1(lane, i);
    });
    Chunk target;
    if (Warp::kRoomForLoads) load_target(target, 0);
    start<kHiddenTiles>(wide, vector(layout().b2));
    warp_.template product<false, kHiddenSteps, kHiddenTiles>(wide, hidden, w2);
    activate(wide, hidden, slopes2);
    switch (args_.kind) {
      case Distance::kSquared: distance<Distance::kSquared>(hidden, target, scale, loss, wide); break;
      case Distance::kL1: distance<Distance::kL1>(hidden, target, scale, loss, wide); break;
      case Distance::kHuber: distance<Distance::kHuber>(hidden, target, scale, loss, wide); break;
      case Distance::kCosine: cosine(hidden, target, scale, loss, wide); break;
    }
    through_slopes(wide, slopes2, hidden);
    clear(wide, 4 * kHiddenTiles);
    Gradient offset;
    load_rows(offset, args_.prior_mean);
    warp_.template product<true, kHiddenSteps, kHiddenTiles>(wide, hidden, w2);
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int i = 0; i < kParkedSlopes; ++i) slopes1(lane, i) = parked_[i * 32 + lane];
    });
    through_slopes(wide, slopes1, hidden);
    prior(loss, scale, offset, grad);
    if (Warp::kRoomForLoads) load_rows(first, args_.exp_avg), load_rows(second, args_.exp_avg_sq);
    warp_.template product<true, kHiddenSteps, kThetaTiles>(grad, hidden, w1);
    if (!Warp::kRoomForLoads) {
      warp_.sync();  // or the compiler starts Adam's arithmetic so early that registers run out
      load_rows(first, args_.exp_avg), load_rows(second, args_.exp_avg_sq);
    }
  }

  // grad = scale precision (theta - mean); loss grows by the prior's energy. `offset` comes as the mean.
  GENET_TILE_FN void prior(Loss& loss, const Rows& scale, Gradient& offset, Gradient& grad) const {
    ThetaHalf half;
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float factor = scale(lane, h) * scales().prior;
        GENET_UNROLL
        for (int i = 0; i < kQuads; ++i) {
          const Quad x = theta(lane, i, h);
          float o[4];
          GENET_UNROLL
          for (int c = 0; c < 4; ++c) {
            o[c] = x.v[c] - offset(lane, place_of(i, h, c));
            offset(lane, place_of(i, h, c)) = o[c];
          }
          half(lane, 4 * i + h) = Warp::pack(o[0] * factor, o[1] * factor);
          half(lane, 4 * i + 2 + h) = Warp::pack(o[2] * factor, o[3] * factor);
        }
      }
    });
    clear(grad, 4 * kThetaTiles);
    const WidthMatrix precision{matrix(layout().prior)};
    warp_.template product<false, kThetaSteps, kThetaTiles>(grad, half, precision);
    Rows energy;
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        float sum = 0;
        GENET_UNROLL
        for (int j = 0; j < kThetaTiles; ++j) {
          GENET_UNROLL
          for (int c = 0; c < 2; ++c) {
            sum = fused_multiply_add(offset(lane, 4 * j + 2 * h + c), grad(lane, 4 * j + 2 * h + c), sum);
          }
        }
        energy(lane, h) = sum;
      }
    });
    warp_.quad_sum(energy);
    warp_.each([&](int lane) {
      for (int h = 0; h < 2; ++h) loss(lane, h) += 0.5f * Warp::divide(energy(lane, h), scale(lane, h));
    });
  }

  // Retires the faces that are done or failed, steps the others.
  GENET_TILE_FN void update(Loss& loss, const Rows& scale, Gradient& grad, Moments& first, Moments& second) {
    Rows probe, rates;
    clear(probe, 2), clear(rates, 2);
    warp_.each([&](int lane) {
      const float unscale[2] = {Warp::divide(1.0f, scale(lane, 0)), Warp::divide(1.0f, scale(lane, 1))};
      GENET_UNROLL
      for (int i = 0; i < kQuads; ++i) {
        const Quad rate = load(vector(layout().rate) + column_of(lane, i));
        GENET_UNROLL
        for (int h = 0; h < 2; ++h) {
          const Quad x = theta(lane, i, h);
          GENET_UNROLL
          for (int c = 0; c < 4; ++c) {
            float& g = grad(lane, place_of(i, h, c));
            g *= unscale[h];
            g += rate_gradient(g, x.v[c], rate.v[c]);
            probe(lane, h) = fused_multiply_add(g, 0.0f, probe(lane, h));
            rates(lane, h) = fused_multiply_add(rate.v[c], std::abs(x.v[c]), rates(lane, h));
          }
        }
      }
    });
    warp_.quad_sum(probe), warp_.quad_sum(rates);
    warp_.each([&](int lane) {
      const int h = lane % 4;
      if (h >= 2) return;
      decide(slots_[row_of(lane, h)], h ? loss(lane, 1) + rates(lane, 1) : loss(lane, 0) + rates(lane, 0),
             h ? probe(lane, 1) : probe(lane, 0));
    });
    warp_.sync();
    Rows change;
    clear(change, 2);
    warp_.each([&](int lane) {
      GENET_UNROLL
      for (int h = 0; h < 2; ++h) {
        const TensorSlot& slot = slots_[row_of(lane, h)];
        if (slot.state == kPlaceStepping) step(lane, h, slot, grad, first, second, change(lane, h));
        if (slot.state == kPlaceRetired) write_back(lane, h, slot.face);
      }
    });
    warp_.quad_max(change);
    warp_.each([&](int lane) {
      const int h = lane % 4;
      if (h >= 2) return;
      TensorSlot& slot = slots_[row_of(lane, h)];
      if (slot.state != kPlaceStepping) return;
      slot.steps += 1;
      slot.left -= 1;
      if ((h ? change(lane, 1) : change(lane, 0)) < args_.tol) {
        slot.left = 0;
        args_.active[slot.face] = false;
      }
    });
    warp_.sync();
  }

  // What add_rate_gradient adds, without a branch.
  static GENET_TILE_FN float rate_gradient(float grad, float param, float rate) {
    const float held = -std::fmin(std::fmax(grad, -rate), rate);
    return param > 0 ? rate : param < 0 ? -rate : held;
  }

  // One thread a face: what comes after this evaluation.
  GENET_TILE_FN void decide(TensorSlot& slot, float loss, float probe) const {
    if (slot.face < 0) return;
    const bool finite_loss = finite_probe(loss) == 0;
    const bool finite = finite_loss && probe == 0;
    if (slot.left > 0 && finite) {
      const FitRates<float> step = next_rates(args_, slot.schedule);
      slot.step_size = Warp::divide(step.lr, step.correction1);
      slot.rsqrt_correction2 = Warp::rsqrt(step.correction2);
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
  GENET_TILE_FN void step(int lane, int h, const TensorSlot& slot, const Gradient& grad, const Moments& first,
                          const Moments& second, float& largest) const {
    const float size = slot.step_size, correction = slot.rsqrt_correction2;
    const float keep1 = float(1.0 - args_.beta1), beta2 = float(args_.beta2),
                keep2 = float(1.0 - args_.beta2);
    const float eps = float(args_.eps);
    float* const first_row = args_.exp_avg + slot.face * args_.width;
    float* const second_row = args_.exp_avg_sq + slot.face * args_.width;
    GENET_UNROLL
    for (int i = 0; i < kQuads; ++i) {
      const Quad lower = load(vector(layout().lower) + column_of(lane, i)),
                 upper = load(vector(layout().upper) + column_of(lane, i));
      Quad x = theta(lane, i, h), m, v;
      GENET_UNROLL
      for (int c = 0; c < 4; ++c) {
        const int at = place_of(i, h, c);
        const float g = grad(lane, at);
        m.v[c] = fused_multiply_add(keep1, g - first(lane, at), first(lane, at));
        v.v[c] = fused_multiply_add(keep2 * g, g, beta2 * second(lane, at));
        const float root = fused_multiply_add(Warp::sqrt(v.v[c]), correction, eps);
        const float moved = fused_multiply_add(-size, Warp::divide(m.v[c], root), x.v[c]);
        const float next = project(moved, lower.v[c], upper.v[c]);
        const float by = std::abs(next - x.v[c]);
        largest = std::fmax(by, largest);
        x.v[c] = next;
      }
      theta(lane, i, h) = x;
      store_within(first_row, column_of(lane, i), args_.width, m);
      store_within(second_row, column_of(lane, i), args_.width, v);
    }
  }

  GENET_TILE_FN void write_back(int lane, int h, int64_t face) const {
    for (int i = 0; i < kQuads; ++i) {
      store_within(args_.params + face * args_.width, column_of(lane, i), args_.width, theta(lane, i, h));
    }
  }

  const FitMlpArgs<float>& args_;
  unsigned long long* queue_;
  const unsigned char* image_;  // shared
  Warp warp_;
  TensorSlot* slots_;  // [16], shared
  Quad* theta_;        // [kQuads][2][32], shared
  volatile uint32_t*
      parked_;  // [kParkedSlopes][32], shared; volatile, or the compiler keeps a copy in registers
};

}  // namespace genet
