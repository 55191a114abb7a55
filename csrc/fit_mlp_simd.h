// The CPU search for one SIMD level. No include guard: fit_mlp_cpu.cpp includes this file once a level, with
//   GENET_LEVEL        namespace of the level
//   GENET_LEVEL_FN     the level's target attribute, on every function here
//   GENET_LEVEL_BYTES  width of a vector register; 64 and 32 have intrinsics, 16 is left to the compiler
//
// A thread keeps a small pool of faces. Each round evaluates all of them, retires those that are done (their
// places are taken by the last faces of the pool, then by new ones) and steps the others. Layers are computed
// in register tiles of kTileFaces faces x kTileVectors vectors of outputs; weights are packed in that order
// once a call, activations stay in the caches. Along k a tile adds one product after the other, so its shape
// leaves no trace in the result.

namespace genet {
namespace GENET_LEVEL {

template <typename T>
struct Vec;

#if GENET_LEVEL_BYTES == 64
template <>
struct Vec<float> {
  using Register = __m512;
  static constexpr int kWidth = 16;
  GENET_LEVEL_FN static Register load(const float* p) { return _mm512_loadu_ps(p); }
  GENET_LEVEL_FN static void store(float* p, Register v) { _mm512_storeu_ps(p, v); }
  GENET_LEVEL_FN static Register add_product(float a, Register w, Register sum) {
    return _mm512_fmadd_ps(_mm512_set1_ps(a), w, sum);
  }
};
template <>
struct Vec<double> {
  using Register = __m512d;
  static constexpr int kWidth = 8;
  GENET_LEVEL_FN static Register load(const double* p) { return _mm512_loadu_pd(p); }
  GENET_LEVEL_FN static void store(double* p, Register v) { _mm512_storeu_pd(p, v); }
  GENET_LEVEL_FN static Register add_product(double a, Register w, Register sum) {
    return _mm512_fmadd_pd(_mm512_set1_pd(a), w, sum);
  }
};
constexpr int kTileFaces = 6, kTileVectors = 4;  // 24 of 32 registers are sums
#elif GENET_LEVEL_BYTES == 32
template <>
struct Vec<float> {
  using Register = __m256;
  static constexpr int kWidth = 8;
  GENET_LEVEL_FN static Register load(const float* p) { return _mm256_loadu_ps(p); }
  GENET_LEVEL_FN static void store(float* p, Register v) { _mm256_storeu_ps(p, v); }
  GENET_LEVEL_FN static Register add_product(float a, Register w, Register sum) {
    return _mm256_fmadd_ps(_mm256_set1_ps(a), w, sum);
  }
};
template <>
struct Vec<double> {
  using Register = __m256d;
  static constexpr int kWidth = 4;
  GENET_LEVEL_FN static Register load(const double* p) { return _mm256_loadu_pd(p); }
  GENET_LEVEL_FN static void store(double* p, Register v) { _mm256_storeu_pd(p, v); }
  GENET_LEVEL_FN static Register add_product(double a, Register w, Register sum) {
    return _mm256_fmadd_pd(_mm256_set1_pd(a), w, sum);
  }
};
constexpr int kTileFaces = 6, kTileVectors = 2;  // 12 of 16 registers are sums
#else
template <typename T>
struct Vec {
  static constexpr int kWidth = 16 / sizeof(T);
  struct Register {
    T lane[kWidth];
  };
  GENET_LEVEL_FN static Register load(const T* p) {
    Register v;
    for (int i = 0; i < kWidth; ++i) v.lane[i] = p[i];
    return v;
  }
  GENET_LEVEL_FN static void store(T* p, Register v) {
    for (int i = 0; i < kWidth; ++i) p[i] = v.lane[i];
  }
  GENET_LEVEL_FN static Register add_product(T a, Register w, Register sum) {
#if defined(__FMA__) || defined(__aarch64__)
    for (int i = 0; i < kWidth; ++i) sum.lane[i] = fused_multiply_add(a, w.lane[i], sum.lane[i]);
#else
    for (int i = 0; i < kWidth; ++i) sum.lane[i] += a * w.lane[i];
#endif
    return sum;
  }
};
constexpr int kTileFaces = 6, kTileVectors = 2;
#endif

// One layer's weights in the order the register tiles read them: panels of up to kTileVectors vectors of
// outputs, each [inputs][outputs of the panel]. Outputs are padded to whole vectors with zeros.
template <typename T>
struct Packed {
  const T* weights;
  const T* bias;  // [padded_outputs], or null for zeros
  int inputs;
  int padded_outputs;
};

template <typename T>
constexpr int padded(int n) {
  return round_up(n, kLanes);
}

// weight(k, n) = source[k * stride_k + n * stride_n], zero outside.
template <typename T>
GENET_LEVEL_FN void pack(const T* source, int inputs, int outputs, int64_t stride_k, int64_t stride_n,
                         T* packed) {
  constexpr int kPanel = kTileVectors * Vec<T>::kWidth;
  const int padded_outputs = padded<T>(outputs);
  for (int first = 0; first < padded_outputs; first += kPanel) {
    const int panel = padded_outputs - first < kPanel ? padded_outputs - first : kPanel;
    for (int k = 0; k < inputs; ++k) {
      for (int n = first; n < first + panel; ++n)
        *packed++ = n < outputs ? source[k * stride_k + n * stride_n] : T(0);
    }
  }
}

// out[f][n] = bias[n] + sum_k in[f][k] weight(k, n) for kFaces faces and kVectors vectors of outputs.
template <int kFaces, int kVectors, typename T>
GENET_LEVEL_FN void register_tile(const T* in, int in_stride, const T* weights, const T* bias, int inputs,
                                  T* out, int out_stride) {
  using V = Vec<T>;
  typename V::Register sum[kFaces][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const T zeros[V::kWidth] = {};
    const typename V::Register start = V::load(bias ? bias + v * V::kWidth : zeros);
    for (int f = 0; f < kFaces; ++f) sum[f][v] = start;
  }
  for (int k = 0; k < inputs; ++k) {
    typename V::Register w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = V::load(weights + (k * kVectors + v) * V::kWidth);
    for (int f = 0; f < kFaces; ++f) {
      const T a = in[f * in_stride + k];
      for (int v = 0; v < kVectors; ++v) sum[f][v] = V::add_product(a, w[v], sum[f][v]);
    }
  }
  for (int f = 0; f < kFaces; ++f) {
    for (int v = 0; v < kVectors; ++v) V::store(out + f * out_stride + v * V::kWidth, sum[f][v]);
  }
}

template <int kVectors, typename T>
GENET_LEVEL_FN void face_tiles(const T* in, int in_stride, const T* weights, const T* bias, int inputs,
                               T* out, int out_stride, int faces) {
  int f = 0;
  for (; f + kTileFaces <= faces; f += kTileFaces) {
    register_tile<kTileFaces, kVectors>(in + f * in_stride, in_stride, weights, bias, inputs,
                                        out + f * out_stride, out_stride);
  }
  in += f * in_stride;
  out += f * out_stride;
  switch (faces - f) {
    case 1: return register_tile<1, kVectors>(in, in_stride, weights, bias, inputs, out, out_stride);
    case 2: return register_tile<2, kVectors>(in, in_stride, weights, bias, inputs, out, out_stride);
    case 3: return register_tile<3, kVectors>(in, in_stride, weights, bias, inputs, out, out_stride);
    case 4: return register_tile<4, kVectors>(in, in_stride, weights, bias, inputs, out, out_stride);
    case 5: return register_tile<5, kVectors>(in, in_stride, weights, bias, inputs, out, out_stride);
  }
}

// out [faces, out_stride] = bias + in [faces, in_stride] weights. A panel serves all faces before the next is
// read.
template <typename T>
GENET_LEVEL_FN void layer(const Packed<T>& w, const T* in, int in_stride, T* out, int out_stride, int faces) {
  constexpr int kWidth = Vec<T>::kWidth;
  const T* weights = w.weights;
  for (int first = 0; first < w.padded_outputs;) {
    const int left = (w.padded_outputs - first) / kWidth;
    const T* bias = w.bias ? w.bias + first : nullptr;
    const int vectors = left < kTileVectors ? left : kTileVectors;
    if (vectors == kTileVectors) {
      face_tiles<kTileVectors>(in, in_stride, weights, bias, w.inputs, out + first, out_stride, faces);
    } else if (vectors == 1) {
      face_tiles<1>(in, in_stride, weights, bias, w.inputs, out + first, out_stride, faces);
    } else if (vectors == 2) {
      face_tiles<2>(in, in_stride, weights, bias, w.inputs, out + first, out_stride, faces);
    } else {
      face_tiles<3>(in, in_stride, weights, bias, w.inputs, out + first, out_stride, faces);
    }
    weights += int64_t{vectors} * kWidth * w.inputs;
    first += vectors * kWidth;
  }
}

// z -> activation in place, slope beside it.
template <typename T>
GENET_LEVEL_FN void activate(T* __restrict z, T* __restrict slope, int n) {
  for (int i = 0; i < n; ++i) {
    T s;
    z[i] = algebraic_silu(z[i], s);
    slope[i] = s;
  }
}

template <typename T>
GENET_LEVEL_FN void multiply(T* __restrict values, const T* __restrict by, int n) {
  for (int i = 0; i < n; ++i) values[i] *= by[i];
}

// Predicted features -> their gradient, in place; returns the distance.
template <Distance kind, typename T>
GENET_LEVEL_FN T distance(T* __restrict pred, const T* __restrict target, const T* __restrict weight, T delta,
                          int n) {
  T loss[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const T residual = pred[i + lane] - target[i + lane];
      loss[lane] = fused_multiply_add(weight[i + lane], distance_rho<kind>(residual, delta), loss[lane]);
      pred[i + lane] = weight[i + lane] * distance_slope<kind>(residual, delta);
    }
  }
  return sum_lanes(loss);
}

template <typename T>
GENET_LEVEL_FN T cosine_distance(T* __restrict pred, const T* __restrict target, const T* __restrict weight,
                                 int n) {
  T dot[kLanes] = {}, pred_sq[kLanes] = {}, target_sq[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const T p = pred[i + lane], t = target[i + lane], w = weight[i + lane];
      dot[lane] = fused_multiply_add(w * p, t, dot[lane]);
      pred_sq[lane] = fused_multiply_add(w * p, p, pred_sq[lane]);
      target_sq[lane] = fused_multiply_add(w * t, t, target_sq[lane]);
    }
  }
  const CosineFactors<T> factors = cosine_factors(sum_lanes(dot), sum_lanes(pred_sq), sum_lanes(target_sq));
  for (int i = 0; i < n; ++i) {
    pred[i] = weight[i] * (factors.on_pred * pred[i] - factors.on_target * target[i]);
  }
  return factors.loss;
}

template <typename T>
GENET_LEVEL_FN T distance_of_kind(Distance kind, T* pred, const T* target, const T* weight, T delta, int n) {
  switch (kind) {
    case Distance::kSquared: return distance<Distance::kSquared>(pred, target, weight, delta, n);
    case Distance::kL1: return distance<Distance::kL1>(pred, target, weight, delta, n);
    case Distance::kHuber: return distance<Distance::kHuber>(pred, target, weight, delta, n);
    default: return cosine_distance(pred, target, weight, n);
  }
}

// 0.5 offset . pull + sum_k rate_k |theta_k|, with pull = precision offset.
template <typename T>
GENET_LEVEL_FN T prior_energy(const T* __restrict theta, const T* __restrict offset, const T* __restrict pull,
                              const T* __restrict rate, int n) {
  T sum[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      sum[lane] = fused_multiply_add(T(0.5) * offset[i + lane], pull[i + lane], sum[lane]);
      sum[lane] = fused_multiply_add(rate[i + lane], std::abs(theta[i + lane]), sum[lane]);
    }
  }
  return sum_lanes(sum);
}

// grad += pull and the rate's part; NaN if an element is not finite, else 0.
template <typename T>
GENET_LEVEL_FN T total_gradient(T* __restrict grad, const T* __restrict pull, const T* __restrict theta,
                                const T* __restrict rate, int n) {
  T probe[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const T g = add_rate_gradient(grad[i + lane] + pull[i + lane], theta[i + lane], rate[i + lane]);
      grad[i + lane] = g;
      probe[lane] += finite_probe(g);
    }
  }
  return sum_lanes(probe);
}

// Adam and the bounds for one face; returns the largest change.
template <typename T>
GENET_LEVEL_FN T update(T* __restrict theta, T* __restrict exp_avg, T* __restrict exp_avg_sq,
                        const T* __restrict grad, const T* __restrict lower, const T* __restrict upper,
                        AdamCoefficients<T> coefficients, int n) {
  T change[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int k = i + lane;
      const T next =
          adam_element(theta[k], grad[k], exp_avg[k], exp_avg_sq[k], lower[k], upper[k], coefficients);
      const T size = std::abs(next - theta[k]);
      change[lane] = size > change[lane] ? size : change[lane];
      theta[k] = next;
    }
  }
  T largest = change[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = change[lane] > largest ? change[lane] : largest;
  return largest;
}

// Everything that faces share: packed weights and padded vectors.
template <typename T>
struct Model {
  Packed<T> forward1, forward2, forward3, backward3, backward2, backward1, precision;
  const T *feature_weight, *rate, *lower, *upper;
  int width, hidden1, hidden2, features;  // padded
  std::vector<T> storage;

  GENET_LEVEL_FN explicit Model(const FitMlpArgs<T>& args)
      : width(padded<T>(args.width)),
        hidden1(padded<T>(args.hidden1)),
        hidden2(padded<T>(args.hidden2)),
        features(padded<T>(args.features)) {
    const int64_t P = args.width, H1 = args.hidden1, H2 = args.hidden2, D = args.features;
    storage.resize(P * hidden1 + H1 * hidden2 + H2 * features + D * hidden2 + H2 * hidden1 + H1 * width +
                   P * width + hidden1 + hidden2 + 2 * features + 3 * width);
    T* free = storage.data();
    auto matrix = [&](const T* source, int64_t inputs, int64_t outputs, int64_t stride_k, int64_t stride_n,
                      const T* bias) {
      const Packed<T> packed{free, bias, int(inputs), padded<T>(outputs)};
      pack(source, inputs, outputs, stride_k, stride_n, free);
      free += inputs * packed.padded_outputs;
      return packed;
    };
    auto vector = [&](const T* source, int64_t n) {
      T* copy = free;
      std::copy(source, source + n, copy);
      free += padded<T>(n);
      return copy;
    };
    forward1 = matrix(args.w1, P, H1, 1, P, vector(args.b1, H1));
    forward2 = matrix(args.w2, H1, H2, 1, H1, vector(args.b2, H2));
    forward3 = matrix(args.w3, H2, D, 1, H2, vector(args.b3, D));
    backward3 = matrix(args.w3, D, H2, H2, 1, nullptr);
    backward2 = matrix(args.w2, H2, H1, H1, 1, nullptr);
    backward1 = matrix(args.w1, H1, P, P, 1, nullptr);
    precision = matrix(args.prior_precision, P, P, 1, P, nullptr);
    feature_weight = vector(args.feature_weight, D);
    rate = vector(args.prior_rate, P);
    lower = vector(args.lower, P);
    upper = vector(args.upper, P);
  }
};

// Faces of one thread's pool; enough that a panel of weights read from L2 pays for itself.
constexpr int kPoolFaces = 4 * kTileFaces;

template <typename T>
class Pool {
 public:
  GENET_LEVEL_FN Pool(const FitMlpArgs<T>& args, const Model<T>& model) : args_(args), m_(model) {
    const int64_t per_face = 7 * m_.width + 2 * m_.hidden1 + 2 * m_.hidden2 + 2 * m_.features;
    storage_.resize(kPoolFaces * per_face);
    T* free = storage_.data();
    for (T** row : {&theta_, &exp_avg_, &exp_avg_sq_, &mean_, &offset_, &pull_, &grad_})
      take(*row, free, m_.width);
    for (T** row : {&hidden1_, &slope1_}) take(*row, free, m_.hidden1);
    for (T** row : {&hidden2_, &slope2_}) take(*row, free, m_.hidden2);
    for (T** row : {&pred_, &target_}) take(*row, free, m_.features);
  }

  // Searches faces [next, end) to their end.
  GENET_LEVEL_FN void search(int64_t next, int64_t end) {
    while (true) {
      while (faces_ < kPoolFaces && next < end) admit(next++);
      if (faces_ == 0) return;
      evaluate();
      for (int f = faces_ - 1; f >= 0; --f) {
        if (slot_[f].left == 0) retire(f);
      }
      if (faces_ > 0) step();
    }
  }

 private:
  struct Slot {
    int64_t face;
    int64_t left;  // steps it may still take; 0: its loss is all that is wanted
    FitSchedule schedule;
    T loss;
    bool failed;
  };

  GENET_LEVEL_FN static void take(T*& row, T*& free, int64_t width) {
    row = free;
    free += kPoolFaces * width;
  }

  GENET_LEVEL_FN void admit(int64_t face) {
    const int f = faces_++;
    slot_[f] = {face, args_.active[face] ? args_.n_iter : 0, fit_schedule(args_, args_.step[face]), T(0),
                false};
    const int64_t P = args_.width, D = args_.features;
    std::copy_n(args_.params + face * P, P, theta_ + f * m_.width);
    std::copy_n(args_.exp_avg + face * P, P, exp_avg_ + f * m_.width);
    std::copy_n(args_.exp_avg_sq + face * P, P, exp_avg_sq_ + f * m_.width);
    std::copy_n(args_.prior_mean + face * P, P, mean_ + f * m_.width);
    std::copy_n(args_.target + face * D, D, target_ + f * m_.features);
  }

  GENET_LEVEL_FN void retire(int f) {
    const Slot& slot = slot_[f];
    const int64_t P = args_.width;
    std::copy_n(theta_ + f * m_.width, P, args_.params + slot.face * P);
    std::copy_n(exp_avg_ + f * m_.width, P, args_.exp_avg + slot.face * P);
    std::copy_n(exp_avg_sq_ + f * m_.width, P, args_.exp_avg_sq + slot.face * P);
    const bool good = !slot.failed && finite_probe(slot.loss) == T(0);
    args_.loss[slot.face] = good ? slot.loss : std::numeric_limits<T>::quiet_NaN();
    const int last = --faces_;
    if (f == last) return;
    slot_[f] = slot_[last];
    for (T* rows : {theta_, exp_avg_, exp_avg_sq_, mean_, pull_}) move_row(rows, m_.width, last, f);
    move_row(slope1_, m_.hidden1, last, f);
    move_row(slope2_, m_.hidden2, last, f);
    for (T* rows : {pred_, target_}) move_row(rows, m_.features, last, f);
  }

  GENET_LEVEL_FN static void move_row(T* rows, int64_t width, int from, int to) {
    std::copy_n(rows + from * width, width, rows + to * width);
  }

  // Objective of every face, up to the gradient by the predicted features (left in pred_).
  GENET_LEVEL_FN void evaluate() {
    layer(m_.forward1, theta_, m_.width, hidden1_, m_.hidden1, faces_);
    activate(hidden1_, slope1_, faces_ * m_.hidden1);
    layer(m_.forward2, hidden1_, m_.hidden1, hidden2_, m_.hidden2, faces_);
    activate(hidden2_, slope2_, faces_ * m_.hidden2);
    layer(m_.forward3, hidden2_, m_.hidden2, pred_, m_.features, faces_);
    for (int i = 0; i < faces_ * m_.width; ++i) offset_[i] = theta_[i] - mean_[i];
    layer(m_.precision, offset_, m_.width, pull_, m_.width, faces_);
    for (int f = 0; f < faces_; ++f) {
      const T data = distance_of_kind(args_.kind, pred_ + f * m_.features, target_ + f * m_.features,
                                      m_.feature_weight, args_.delta, m_.features);
      slot_[f].loss = data + prior_energy(theta_ + f * m_.width, offset_ + f * m_.width, pull_ + f * m_.width,
                                          m_.rate, m_.width);
    }
  }

  GENET_LEVEL_FN void step() {
    layer(m_.backward3, pred_, m_.features, hidden2_, m_.hidden2, faces_);
    multiply(hidden2_, slope2_, faces_ * m_.hidden2);
    layer(m_.backward2, hidden2_, m_.hidden2, hidden1_, m_.hidden1, faces_);
    multiply(hidden1_, slope1_, faces_ * m_.hidden1);
    layer(m_.backward1, hidden1_, m_.hidden1, grad_, m_.width, faces_);
    for (int f = 0; f < faces_; ++f) {
      Slot& slot = slot_[f];
      T* theta = theta_ + f * m_.width;
      T* grad = grad_ + f * m_.width;
      const T probe = total_gradient(grad, pull_ + f * m_.width, theta, m_.rate, m_.width);
      if (!(finite_probe(slot.loss) + probe == T(0))) {
        slot.failed = true;
        slot.left = 0;
        args_.active[slot.face] = false;
        continue;
      }
      const T change = update(theta, exp_avg_ + f * m_.width, exp_avg_sq_ + f * m_.width, grad, m_.lower,
                              m_.upper, next_step(args_, slot.schedule), m_.width);
      args_.step[slot.face] += 1;
      slot.left -= 1;
      if (change < args_.tol) {
        slot.left = 0;
        args_.active[slot.face] = false;
      }
    }
  }

  const FitMlpArgs<T>& args_;
  const Model<T>& m_;
  int faces_ = 0;
  Slot slot_[kPoolFaces];
  T *theta_, *exp_avg_, *exp_avg_sq_, *mean_, *offset_, *pull_, *grad_;  // [kPoolFaces, width]
  T *hidden1_, *slope1_;                                                 // [kPoolFaces, hidden1]
  T *hidden2_, *slope2_;                                                 // [kPoolFaces, hidden2]
  T *pred_, *target_;                                                    // [kPoolFaces, features]
  std::vector<T> storage_;
};

template <typename T>
GENET_LEVEL_FN void run(const FitMlpArgs<T>& args) {
  struct Context {
    const FitMlpArgs<T>& args;
    Model<T> model;
  };
  const Context context{args, Model<T>(args)};
  parallel_for_faces(
      args.batch, 1,
      [](const void* opaque, int64_t begin, int64_t end) {
        const auto& context = *static_cast<const Context*>(opaque);
        Pool<T>(context.args, context.model).search(begin, end);
      },
      &context);
}

}  // namespace GENET_LEVEL
}  // namespace genet
