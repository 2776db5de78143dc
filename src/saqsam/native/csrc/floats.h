// The steps between integer products that stay float: layer norm, softmax, GELU, and rounding to codes.
//
// A value that a rounding error moves over the middle between two codes sets off others. So norm and softmax add
// up in the very order of PyTorch's CPU kernels, lane by lane (softmax as many as its vectors have, norm 8 of them
// at most), and use the same polynomial for exp: their results are PyTorch's, bit for bit. Nothing is contracted into
// fused operations by the compiler (-ffp-contract=off); where PyTorch's is, `fused` is written.
#pragma once
#include "simd.h"

namespace {

struct Grid {  // codes are min(max(round(x / scale) + zero, 0), top)
  float scale, inverse, zero, top;
};

// Codes of x as floats. The product with the inverse is within 3 * 2^-24 of the quotient: only where it comes
// nearer than 8 times that to the middle between two codes does the division have to be made.
template <class V>
inline V codes_of(V x, V scale, V inverse, V zero, V top) {
  V steps = x * inverse;
  V whole = rounded(steps);
  V margin = fused(magnitude(steps), V::set(-4.76837158e-7f), V::set(0.5f));
  if (__builtin_expect(any_above(magnitude(steps - whole), margin), 0)) whole = rounded(x / scale);
  return smaller(larger(whole + zero, V::set(0.0f)), top);
}
template <class V>
inline V codes_of(V x, const Grid& grid) {
  return codes_of(x, V::set(grid.scale), V::set(grid.inverse), V::set(grid.zero), V::set(grid.top));
}

// exp of x <= 0, within one unit of the last place: Cody and Waite's reduction by ln 2 in two parts, and the
// polynomial of SLEEF's expf_u10. Below -86 it is zero, where SLEEF's is smaller than 1e-37.
template <class V>
inline V exponential(V x) {
  const V whole = V::set(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded, and stands in its last bits
  V shifted = x * V::set(1.442695040888963407f) + whole, power = shifted - whole;
  V s = fused(power, V::set(-0.693145751953125f), x);
  s = fused(power, V::set(-1.428606765330187045e-06f), s);
  V u = V::set(0.000198527617612853646278381f);
  u = fused(u, s, V::set(0.00139304355252534151077271f));
  u = fused(u, s, V::set(0.00833336077630519866943359f));
  u = fused(u, s, V::set(0.0416664853692054748535156f));
  u = fused(u, s, V::set(0.166666671633720397949219f));
  u = fused(u, s, V::set(0.5f));
  u = V::set(1.0f) + fused(s * s, u, s);
  return zero_below(times_power(u, shifted), x, -86.0f);
}

// x * (1 + erf(x / sqrt 2)) / 2 with erf by Abramowitz and Stegun's 7.1.26, within 5e-7; t: 1 / turned(x).
template <class V>
inline V turned(V x) {
  return fused(V::set(0.3275911f), magnitude(x * V::set(0.70710678118654752440f)), V::set(1.0f));
}
template <class V>
inline V gelu_of(V x, V t) {
  V y = x * V::set(0.70710678118654752440f), one = V::set(1.0f);
  V r = fused(V::set(1.061405429f), t, V::set(-1.453152027f));
  r = fused(r, t, V::set(1.421413741f));
  r = fused(r, t, V::set(-0.284496736f));
  r = fused(r, t, V::set(0.254829592f));
  V falling = V::set(0.0f) - exponential(V::set(0.0f) - y * y);
  V erf = signed_as(fused(falling * t, r, one), y);
  return x * V::set(0.5f) * (one + erf);
}
template <class V>
inline V gelu(V x) {
  return gelu_of(x, V::set(1.0f) / turned(x));
}
// Where no code hangs on the last bits.
template <class V>
inline V near_gelu(V x) {
  return gelu_of(x, near_inverse(turned(x)));
}

// Mean and variance of so many values in each lane: Welford's, merged in pairs; of R rows side by side, since each step
// waits for the one before.
template <class V, int R>
struct Moments {
  long count;
  V mean[R], squares[R];
};
template <class V, int R>
inline void merge(const Moments<V, R>& more, Moments<V, R>& into) {
  long count = into.count + more.count;
  float share = count == 0 ? 0.0f : (float)more.count / (float)count;
  for (int r = 0; r < R; ++r) {
    V delta = more.mean[r] - into.mean[r], part = V::set(share) * delta;
    V squares = into.squares[r] + more.squares[r];
    into.mean[r] = into.mean[r] + part;
    into.squares[r] = fused(delta * V::set((float)into.count), part, squares);
  }
  into.count = count;
}

// Mean and 1 / sqrt(variance + epsilon) of n floats in each of R rows.
template <class V, int R>
inline void moments(const float* x, long stride, long n, float epsilon, float* mean, float* factor) {
  const long vectors = n / V::width, chunks = (vectors + 15) / 16;
  int depth = 0;
  while ((1L << depth) < chunks) ++depth;
  Moments<V, R> none;
  none.count = 0;
  for (int r = 0; r < R; ++r) none.mean[r] = none.squares[r] = V::set(0.0f);
  Moments<V, R> stack[32];
  for (int i = 0; i <= depth; ++i) stack[i] = none;
  for (long chunk = 0; chunk < chunks; ++chunk) {
    const float* from = x + chunk * 16 * V::width;
    Moments<V, R> own = none;
    own.count = vectors - chunk * 16 < 16 ? vectors - chunk * 16 : 16;
    for (long j = 0; j < own.count; ++j) {
      const V share = V::set(1.0f / (float)(j + 1));
      for (int r = 0; r < R; ++r) {
        V value = V::load(from + r * stride + j * V::width), delta = value - own.mean[r];
        own.mean[r] = fused(share, delta, own.mean[r]);
        own.squares[r] = fused(delta, value - own.mean[r], own.squares[r]);
      }
    }
    merge(own, stack[0]);
    long mask = chunk + 1;
    for (int j = 1; j < depth && (mask & 1) == 0; ++j, mask >>= 1) {
      merge(stack[j - 1], stack[j]);
      stack[j - 1] = none;
    }
  }
  for (int i = 1; i < depth; ++i) merge(stack[i], stack[0]);
  long m0 = 0;
  float m1[R] = {}, m2[R] = {};
  for (long i = vectors * V::width; i < n; ++i) {
    ++m0;
    for (int r = 0; r < R; ++r) {
      const float value = x[r * stride + i], delta = value - m1[r];
      m1[r] += delta / (float)m0;
      m2[r] = __builtin_fmaf(delta, value - m1[r], m2[r]);
    }
  }
  float means[R][V::width], squares[R][V::width];
  for (int r = 0; r < R; ++r) {
    stack[0].mean[r].store(means[r]);
    stack[0].squares[r].store(squares[r]);
  }
  for (int i = 0; i < V::width; ++i) {
    long count = m0 + vectors;
    float c = count == 0 ? 0.0f : (float)vectors / (float)count;
    for (int r = 0; r < R; ++r) {
      float delta = means[r][i] - m1[r];
      m1[r] = __builtin_fmaf(c, delta, m1[r]);
      m2[r] += __builtin_fmaf(delta * delta * c, (float)m0, squares[r][i]);
    }
    m0 = count;
  }
  for (int r = 0; r < R; ++r) {
    mean[r] = m1[r];
    factor[r] = 1.0f / __builtin_sqrtf(m2[r] / (float)n + epsilon);
  }
}

// (x - mean) * factor * weight + bias of n floats.
template <class V>
inline void scaled(const float* x, long n, float mean, float factor, const float* weight, const float* bias,
                   float* out) {
  V minus = V::set(-mean), times = V::set(factor);
  long i = 0;
  for (; i + V::width <= n; i += V::width) {
    fused((V::load(x + i) + minus) * times, V::load(weight + i), V::load(bias + i)).store(out + i);
  }
  for (; i < n; ++i) out[i] = __builtin_fmaf((x[i] + -mean) * factor, weight[i], bias[i]);
}

// The same with the moments of x, added up in the lanes of V.
template <class V>
inline void normalize(const float* x, long n, const float* weight, const float* bias, float epsilon, float* out) {
  float mean, factor;
  moments<V, 1>(x, 0, n, epsilon, &mean, &factor);
  scaled<Wide>(x, n, mean, factor, weight, bias, out);
}

// Replaces scores by exp(score - largest); returns one over their sum, added up as PyTorch adds.
template <class V>
inline float exponentials(float* scores, long n) {
  V most = V::set(scores[0]);
  long i = 0;
  for (; i + V::width <= n; i += V::width) most = larger(V::load(scores + i), most);
  if (i < n) most = larger(load_part<V>(scores + i, (int)(n - i), scores[0]), most);
  float lanes[V::width];
  most.store(lanes);
  float largest = lanes[0];
  for (int j = 1; j < V::width; ++j) largest = lanes[j] > largest ? lanes[j] : largest;
  V top = V::set(largest), sum = V::set(0.0f);
  for (i = 0; i + V::width <= n; i += V::width) {
    V e = exponential(V::load(scores + i) - top);
    e.store(scores + i);
    sum = i == 0 ? e : sum + e;
  }
  int width = V::width;
  if (i < n) {
    int rest = (int)(n - i);
    V e = exponential(load_part<V>(scores + i, rest, 0.0f) - top);
    store_part(e, scores + i, rest);
    e = load_part<V>(scores + i, rest, 0.0f);
    sum = i == 0 ? e : sum + e;
  }
  sum.store(lanes);
  if (n < V::width) {  // so few are added one after the other
    for (int j = 1; j < n; ++j) lanes[0] += lanes[j];
    return 1.0f / lanes[0];
  }
  for (width /= 2; width; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return 1.0f / lanes[0];
}
inline float exponentials(float* scores, long n, int32_t lanes) {
  return lanes == 16 ? exponentials<Lanes16>(scores, n)
                     : lanes == 8 ? exponentials<Lanes8>(scores, n) : exponentials<Lanes4>(scores, n);
}

}  // namespace
