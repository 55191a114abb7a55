// The float32 (and float64) CUDA search: one thread block keeps a tile of 1, 4 or 16 faces and iterates until
// the queue of faces is empty. Also compiled for the CPU, where EmulatedBlock runs the same stages thread by
// thread, so that the tests can follow it without a GPU.
//
// A tile's activations live in shared memory as [row][face], the faces of a row in an order that keeps both
// the matrix stages (a warp stores 8 rows at once) and the element stages (a warp reads along a row) free of
// bank conflicts. Weights come from L2 through L1; Adam's moments, targets and prior means are read in place
// in global memory, where L2 holds them: a step of 64 faces reads 160 KB of them while it computes 17 MFLOP.
#pragma once

#include "fit_mlp.h"

#if defined(__CUDACC__)
#define GENET_TILE_FN __device__ __forceinline__
#define GENET_UNROLL _Pragma("unroll")
#define GENET_NO_UNROLL _Pragma("unroll 1")
#else
#define GENET_TILE_FN inline
#define GENET_UNROLL
#define GENET_NO_UNROLL
#endif

namespace genet {

// The weights as the matrix stages read them: [inputs][stride] with stride the outputs, rounded up to a
// vector.
template <typename T>
struct TileMatrix {
  const T* weights;
  const T* bias;  // [outputs] or null
  int inputs, outputs, stride;
};

constexpr int kTileAlign = 4;  // outputs that one thread computes at most: the vector its weights are read in

// Which matrices there are, in the order they lie in the workspace.
enum TileMatrixId {
  kForward1,
  kForward2,
  kForward3,
  kBackward3,
  kBackward2,
  kBackward1,
  kPrecision,
  kTileMatrices
};

template <typename T>
struct TileSource {
  const T* source;  // weight(k, n) = source[k * stride_k + n * stride_n]
  int inputs, outputs, stride_k, stride_n;
};

template <typename T>
GENET_HD TileSource<T> tile_source(const FitMlpArgs<T>& a, int id) {
  switch (id) {
    case kForward1: return {a.w1, a.width, a.hidden1, 1, a.width};
    case kForward2: return {a.w2, a.hidden1, a.hidden2, 1, a.hidden1};
    case kForward3: return {a.w3, a.hidden2, a.features, 1, a.hidden2};
    case kBackward3: return {a.w3, a.features, a.hidden2, a.hidden2, 1};
    case kBackward2: return {a.w2, a.hidden2, a.hidden1, a.hidden1, 1};
    case kBackward1: return {a.w1, a.hidden1, a.width, a.width, 1};
    default: return {a.prior_precision, a.width, a.width, 1, a.width};
  }
}

template <typename T>
GENET_HD int64_t tile_matrix_offset(const FitMlpArgs<T>& args, int id) {
  int64_t offset = 0;
  for (int i = 0; i < id; ++i) {
    const TileSource<T> s = tile_source(args, i);
    offset += int64_t{s.inputs} * round_up(s.outputs, kTileAlign);
  }
  return offset;
}

// Elements of T that the packed weights need.
template <typename T>
GENET_HD int64_t tile_workspace(const FitMlpArgs<T>& args) {
  return tile_matrix_offset(args, kTileMatrices);
}

// Element i of the workspace.
template <typename T>
GENET_HD T tile_packed_element(const FitMlpArgs<T>& args, int64_t i) {
  for (int id = 0; id < kTileMatrices; ++id) {
    const TileSource<T> s = tile_source(args, id);
    const int stride = round_up(s.outputs, kTileAlign);
    const int64_t size = int64_t{s.inputs} * stride;
    if (i < size) {
      const int k = int(i / stride), n = int(i % stride);
      return n < s.outputs ? s.source[int64_t{k} * s.stride_k + int64_t{n} * s.stride_n] : T(0);
    }
    i -= size;
  }
  return T(0);
}

template <typename T>
GENET_HD TileMatrix<T> tile_matrix(const FitMlpArgs<T>& args, const T* workspace, int id, const T* bias) {
  const TileSource<T> s = tile_source(args, id);
  return {workspace + tile_matrix_offset(args, id), bias, s.inputs, s.outputs,
          round_up(s.outputs, kTileAlign)};
}

// A face's place in the tile.
template <typename T>
struct TileSlot {
  FitSchedule schedule;
  AdamCoefficients<T> step;
  int64_t face;  // -1: empty
  int64_t left;  // steps it may still take; 0: its loss is all that is wanted
  T loss;
  int32_t state;
};
enum TileSlotState : int32_t { kSlotEmpty, kSlotFresh, kSlotRunning, kSlotStepping };

// Shared-memory rows of a tile, each kFaces wide. act1 also keeps the prior's pull from the second layer on,
// act2 the gradient by theta, and y the gradients by the first layer, so the buffers are as wide as their
// widest tenant.
struct TileRows {
  int theta, act1, slope1, act2, slope2, y, total;
};

GENET_HD constexpr int widest(int a, int b) { return a > b ? a : b; }

GENET_HD constexpr TileRows tile_rows(int width, int hidden1, int hidden2, int features) {
  TileRows rows{};
  int next = 0;
  rows.theta = next, next += width;
  rows.act1 = next, next += widest(hidden1, width);
  rows.slope1 = next, next += hidden1;
  rows.act2 = next, next += widest(widest(hidden2, width), 3);  // 3: the cosine's sums
  rows.slope2 = next, next += hidden2;
  rows.y = next, next += widest(widest(features, hidden1), width);
  rows.total = next;
  return rows;
}

// Faces of a tile, and the part of it one thread computes in a matrix stage.
template <int kFaces_, int kThreadFaces_, int kThreadOutputs_>
struct TileShape {
  static constexpr int kFaces = kFaces_;
  static constexpr int kThreadFaces = kThreadFaces_;
  static constexpr int kThreadOutputs = kThreadOutputs_;
  static constexpr int kThreads = 256;
};

template <typename T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) TileVector {
  T v[kCount];
};

// Position of (row, face): faces in chunks of four, the chunks of a row rotated by its row.
template <typename Shape>
GENET_HD int tile_at(int row, int face) {
  if (Shape::kFaces < 8) return row * Shape::kFaces + face;
  constexpr int kMask = Shape::kFaces / 4 < 8 ? Shape::kFaces / 4 - 1 : 7;
  return row * Shape::kFaces + ((((face >> 2) ^ ((row / Shape::kThreadOutputs) & kMask)) << 2) | (face & 3));
}

template <typename T, typename Shape, typename Block>
class FitTile {
 public:
  static constexpr int kFaces = Shape::kFaces;

  GENET_TILE_FN FitTile(const FitMlpArgs<T>& args, const T* workspace, unsigned long long* queue, T* shared,
                        TileSlot<T>* slots, Block block)
      : args_(args), workspace_(workspace), queue_(queue), slots_(slots), block_(block) {
    const TileRows rows = tile_rows(args.width, args.hidden1, args.hidden2, args.features);
    theta_ = shared + rows.theta * kFaces;
    act1_ = shared + rows.act1 * kFaces;
    slope1_ = shared + rows.slope1 * kFaces;
    act2_ = shared + rows.act2 * kFaces;
    slope2_ = shared + rows.slope2 * kFaces;
    y_ = shared + rows.y * kFaces;
  }

  GENET_TILE_FN void search() {
    each_slot([&](TileSlot<T>& slot, int) { slot.state = kSlotEmpty, slot.face = -1; });
    while (admit()) {
      forward();
      backward();
      update();
    }
  }

 private:
  // f(slot, face) by one thread for every slot of the tile.
  template <typename F>
  GENET_TILE_FN void each_slot(F f) {
    block_.each_thread([&](int thread) {
      for (int face = thread; face < kFaces; face += Shape::kThreads) f(slots_[face], face);
    });
    block_.barrier();
  }

  // f(i, face) for i < count of every face, a warp along a face: its rows in global memory are contiguous.
  template <typename F>
  GENET_TILE_FN void each_element(int count, F f) {
    block_.each_thread([&](int thread) {
      for (int face = thread / kLanes; face < kFaces; face += Shape::kThreads / kLanes) {
        for (int i = thread % kLanes; i < count; i += kLanes) f(i, face);
      }
    });
    block_.barrier();
  }

  // done(slot, face, total) for every face, with the total of what f(lane, face) returns for its kLanes
  // lanes.
  template <typename F, typename Done>
  GENET_TILE_FN void each_face_sum(F f, Done done) {
    for (int first = 0; first < kFaces; first += Shape::kThreads / kLanes) {
      block_.fold_warps(
          [&](int warp, int lane) { return first + warp < kFaces ? f(lane, first + warp) : T(0); },
          [](T a, T b) { return a + b; },
          [&](int warp, T total) {
            if (first + warp < kFaces) done(slots_[first + warp], first + warp, total);
          });
    }
    block_.barrier();
  }

  // Empty slots take the next faces of the queue. False when there is nothing left to do.
  GENET_TILE_FN bool admit() {
    each_slot([&](TileSlot<T>& slot, int) {
      if (slot.state != kSlotEmpty) {
        slot.state = kSlotRunning;
        return;
      }
      slot.face = -1;
      const int64_t face = int64_t(block_.take(queue_));
      if (face >= args_.batch) return;
      slot.face = face;
      slot.left = args_.active[face] ? args_.n_iter : 0;
      slot.schedule = fit_schedule(args_, args_.step[face]);
      slot.state = kSlotFresh;
    });
    bool any = false;
    for (int face = 0; face < kFaces; ++face) any |= slots_[face].face >= 0;
    if (!any) return false;
    each_element(args_.width, [&](int k, int face) {
      const TileSlot<T>& slot = slots_[face];
      if (slot.state == kSlotFresh)
        theta_[tile_at<Shape>(k, face)] = args_.params[slot.face * args_.width + k];
      if (slot.state == kSlotEmpty) theta_[tile_at<Shape>(k, face)] = T(0);
    });
    return true;
  }

  // store(output, face, bias[output] + sum_k in[k][face] weight(k, output)) for every output and face.
  template <typename Store>
  GENET_TILE_FN void layer(const TileMatrix<T>& m, const T* in, Store store) {
    constexpr int kF = Shape::kThreadFaces, kN = Shape::kThreadOutputs;
    constexpr int kChunk = kF < 4 ? kF : 4;
    constexpr int kOutputGroups = Shape::kThreads / (kFaces / kF);
    block_.each_thread([&](int thread) {
      const int face = thread / kOutputGroups * kF;
      for (int first = thread % kOutputGroups * kN; first < m.outputs; first += kOutputGroups * kN) {
        T sum[kN][kF];
        GENET_UNROLL
        for (int n = 0; n < kN; ++n) {
          const T start = m.bias && first + n < m.outputs ? m.bias[first + n] : T(0);
          GENET_UNROLL
          for (int f = 0; f < kF; ++f) sum[n][f] = start;
        }
        const T* weights = m.weights + first;
        auto add = [&](int k, const TileVector<T, kN>& w) {
          GENET_UNROLL
          for (int chunk = 0; chunk < kF; chunk += kChunk) {
            const auto a =
                *reinterpret_cast<const TileVector<T, kChunk>*>(in + tile_at<Shape>(k, face + chunk));
            GENET_UNROLL
            for (int n = 0; n < kN; ++n) {
              GENET_UNROLL
              for (int f = 0; f < kChunk; ++f) {
                sum[n][chunk + f] = fused_multiply_add(a.v[f], w.v[n], sum[n][chunk + f]);
              }
            }
          }
        };
        // Weights are fetched kAhead rows before they are used: L2 is some 250 cycles away.
        constexpr int kAhead = kF * kN == 1 ? 32 : 8;
        TileVector<T, kN> ahead[kAhead];
        int k = 0;
        if (m.inputs >= kAhead) {
          GENET_UNROLL
          for (int i = 0; i < kAhead; ++i) ahead[i] = row(weights, m.stride, i);
          for (; k + 2 * kAhead <= m.inputs; k += kAhead) {
            GENET_UNROLL
            for (int i = 0; i < kAhead; ++i) {
              const TileVector<T, kN> w = ahead[i];
              ahead[i] = row(weights, m.stride, k + kAhead + i);
              add(k + i, w);
            }
          }
          GENET_UNROLL
          for (int i = 0; i < kAhead; ++i) add(k + i, ahead[i]);
          k += kAhead;
        }
        for (; k < m.inputs; ++k) add(k, row(weights, m.stride, k));
        GENET_UNROLL
        for (int n = 0; n < kN; ++n) {
          if (first + n >= m.outputs) break;
          GENET_UNROLL
          for (int f = 0; f < kF; ++f) store(first + n, face + f, sum[n][f]);
        }
      }
    });
    block_.barrier();
  }

  static GENET_TILE_FN TileVector<T, Shape::kThreadOutputs> row(const T* weights, int stride, int k) {
    return *reinterpret_cast<const TileVector<T, Shape::kThreadOutputs>*>(weights + int64_t{k} * stride);
  }

  // Sum over i < count of what term(i, face, sum) adds, in kLanes partial sums.
  template <typename Term, typename Done>
  GENET_TILE_FN void face_sums(int count, Term term, Done done) {
    each_face_sum(
        [&](int lane, int face) {
          T sum = T(0);
          for (int i = lane; i < count; i += kLanes) sum = term(i, face, sum);
          return sum;
        },
        done);
  }

  GENET_TILE_FN const T* of_face(const T* array, int width, int face) const {
    const int64_t index = slots_[face].face;
    return array + (index < 0 ? 0 : index) * width;  // empty slots compute along on the first face's numbers
  }

  GENET_TILE_FN void forward() {
    const FitMlpArgs<T>& a = args_;
    layer(tile_matrix(a, workspace_, kForward1, a.b1), theta_, [&](int n, int face, T z) {
      T slope;
      act1_[tile_at<Shape>(n, face)] = algebraic_silu(z, slope);
      slope1_[tile_at<Shape>(n, face)] = slope;
    });
    layer(tile_matrix(a, workspace_, kForward2, a.b2), act1_, [&](int n, int face, T z) {
      T slope;
      act2_[tile_at<Shape>(n, face)] = algebraic_silu(z, slope);
      slope2_[tile_at<Shape>(n, face)] = slope;
    });
    each_element(a.width, [&](int k, int face) {
      y_[tile_at<Shape>(k, face)] = theta_[tile_at<Shape>(k, face)] - of_face(a.prior_mean, a.width, face)[k];
    });
    layer(tile_matrix(a, workspace_, kPrecision, static_cast<const T*>(nullptr)), y_,
          [&](int n, int face, T pull) { act1_[tile_at<Shape>(n, face)] = pull; });
    face_sums(
        a.width,
        [&](int k, int face, T sum) {
          const int at = tile_at<Shape>(k, face);
          sum = fused_multiply_add(T(0.5) * y_[at], act1_[at], sum);
          return fused_multiply_add(a.prior_rate[k], std::abs(theta_[at]), sum);
        },
        [&](TileSlot<T>& slot, int, T energy) { slot.loss = energy; });
    layer(tile_matrix(a, workspace_, kForward3, a.b3), act2_,
          [&](int n, int face, T pred) { y_[tile_at<Shape>(n, face)] = pred; });
    switch (a.kind) {
      case Distance::kSquared: return distance<Distance::kSquared>();
      case Distance::kL1: return distance<Distance::kL1>();
      case Distance::kHuber: return distance<Distance::kHuber>();
      case Distance::kCosine: return cosine();
    }
  }

  // y: predicted features -> their gradient; the slots' losses grow by the distance.
  template <Distance kind>
  GENET_TILE_FN void distance() {
    const FitMlpArgs<T>& a = args_;
    face_sums(
        a.features,
        [&](int d, int face, T sum) {
          T& y = y_[tile_at<Shape>(d, face)];
          const T residual = y - of_face(a.target, a.features, face)[d];
          y = a.feature_weight[d] * distance_slope<kind>(residual, a.delta);
          return fused_multiply_add(a.feature_weight[d], distance_rho<kind>(residual, a.delta), sum);
        },
        [&](TileSlot<T>& slot, int, T sum) { slot.loss = sum + slot.loss; });
  }

  GENET_TILE_FN void cosine() {
    const FitMlpArgs<T>& a = args_;
    for (int which = 0; which < 3; ++which) {
      face_sums(
          a.features,
          [&](int d, int face, T sum) {
            const T p = y_[tile_at<Shape>(d, face)], t = of_face(a.target, a.features, face)[d];
            return fused_multiply_add(a.feature_weight[d] * (which == 2 ? t : p), which == 1 ? p : t, sum);
          },
          [&](TileSlot<T>&, int face, T sum) { act2_[which * kFaces + face] = sum; });
    }
    each_slot([&](TileSlot<T>& slot, int face) {
      const CosineFactors<T> f = cosine_factors(act2_[face], act2_[kFaces + face], act2_[2 * kFaces + face]);
      slot.loss = f.loss + slot.loss;
      act2_[face] = f.on_pred;
      act2_[kFaces + face] = f.on_target;
    });
    each_element(a.features, [&](int d, int face) {
      T& y = y_[tile_at<Shape>(d, face)];
      const T t = of_face(a.target, a.features, face)[d];
      y = a.feature_weight[d] * (act2_[face] * y - act2_[kFaces + face] * t);
    });
  }

  // y: gradient by the features; act2: gradient of the distance by theta at the end.
  GENET_TILE_FN void backward() {
    const FitMlpArgs<T>& a = args_;
    const T* no_bias = nullptr;
    layer(tile_matrix(a, workspace_, kBackward3, no_bias), y_, [&](int n, int face, T grad) {
      act2_[tile_at<Shape>(n, face)] = grad * slope2_[tile_at<Shape>(n, face)];
    });
    layer(tile_matrix(a, workspace_, kBackward2, no_bias), act2_, [&](int n, int face, T grad) {
      y_[tile_at<Shape>(n, face)] = grad * slope1_[tile_at<Shape>(n, face)];
    });
    layer(tile_matrix(a, workspace_, kBackward1, no_bias), y_,
          [&](int n, int face, T grad) { act2_[tile_at<Shape>(n, face)] = grad; });
  }

  // Retires the faces that are done or failed, steps the others.
  GENET_TILE_FN void update() {
    const FitMlpArgs<T>& a = args_;
    face_sums(
        a.width,
        [&](int k, int face, T probe) {
          const int at = tile_at<Shape>(k, face);
          act2_[at] = add_rate_gradient(act2_[at] + act1_[at], theta_[at], a.prior_rate[k]);
          return probe + finite_probe(act2_[at]);
        },
        [&](TileSlot<T>& slot, int, T probe) {
          if (slot.face < 0) return;
          const bool finite_loss = finite_probe(slot.loss) == T(0);
          const bool finite = finite_loss && probe == T(0);
          if (slot.left > 0 && finite) {
            slot.step = next_step(a, slot.schedule);
            slot.state = kSlotStepping;
            return;
          }
          if (slot.left > 0) a.active[slot.face] = false;
          a.loss[slot.face] = finite_loss && (slot.left == 0 || finite) ? slot.loss : T(NAN);
          slot.state = kSlotEmpty;
        });
    for (int first = 0; first < kFaces; first += Shape::kThreads / kLanes) {
      block_.fold_warps(
          [&](int warp, int lane) { return first + warp < kFaces ? step_lane(lane, first + warp) : T(0); },
          [](T a, T b) { return b > a ? b : a; },
          [&](int warp, T change) {
            if (first + warp < kFaces) after_step(slots_[first + warp], change);
          });
    }
    block_.barrier();
  }

  // Steps every kLanes-th parameter of a face; returns the largest change.
  GENET_TILE_FN T step_lane(int lane, int face) {
    const FitMlpArgs<T>& a = args_;
    const TileSlot<T>& slot = slots_[face];
    if (slot.state != kSlotStepping) return T(0);
    const int64_t base = slot.face * a.width;
    const AdamCoefficients<T> step = slot.step;
    T largest = T(0);
    for (int k = lane; k < a.width; k += kLanes) {
      const int at = tile_at<Shape>(k, face);
      const T theta = theta_[at];
      const T next = adam_element(theta, act2_[at], a.exp_avg[base + k], a.exp_avg_sq[base + k], a.lower[k],
                                  a.upper[k], step);
      theta_[at] = next;
      a.params[base + k] = next;
      const T change = std::abs(next - theta);
      largest = change > largest ? change : largest;
    }
    return largest;
  }

  GENET_TILE_FN void after_step(TileSlot<T>& slot, T change) {
    if (slot.state != kSlotStepping) return;
    args_.step[slot.face] += 1;
    slot.left -= 1;
    if (change < args_.tol) {
      slot.left = 0;
      args_.active[slot.face] = false;
    }
  }

  const FitMlpArgs<T>& args_;
  const T* workspace_;
  unsigned long long* queue_;
  TileSlot<T>* slots_;  // [kFaces], shared
  Block block_;
  T *theta_, *act1_, *slope1_, *act2_, *slope2_, *y_;  // shared
};

}  // namespace genet
