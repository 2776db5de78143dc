// One set of operations on vectors of floats for every instruction set, so that float kernels are written once.
//
// Everything is in an anonymous namespace: each level's file gets copies of its own, compiled for its own
// instructions, and no linker can put one level's code into another's place. For the same reason nothing here
// uses the standard library's inline functions.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#endif

namespace {

inline float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

// N floats without any vector instruction.
template <int N>
struct Scalars {
  static constexpr int width = N;
  float v[N];
  static Scalars set(float x) { return make([&](int) { return x; }); }
  static Scalars load(const float* p) { return make([&](int i) { return p[i]; }); }
  static Scalars load_bytes(const uint8_t* p) { return make([&](int i) { return (float)p[i]; }); }
  static Scalars load_sums(const int32_t* sums, const int32_t* offset, const int32_t* zero, int32_t row) {
    return make([&](int i) { return (float)(sums[i] + offset[i] - zero[i] * row); });
  }
  static Scalars load_sums(const int32_t* sums, const int32_t* offset, int32_t minus) {
    return make([&](int i) { return (float)(sums[i] + offset[i] - minus); });
  }
  void store(float* p) const {
    for (int i = 0; i < N; ++i) p[i] = v[i];
  }
  void store_bytes(uint8_t* p) const {
    for (int i = 0; i < N; ++i) p[i] = (uint8_t)v[i];
  }
  template <class F>
  static Scalars make(F f) {
    Scalars r;
    for (int i = 0; i < N; ++i) r.v[i] = f(i);
    return r;
  }
};
#define SCALARS(name, expression)                                   \
  template <int N>                                                  \
  inline Scalars<N> name(Scalars<N> a, Scalars<N> b) {              \
    return Scalars<N>::make([&](int i) { return expression; });     \
  }
SCALARS(operator+, a.v[i] + b.v[i])
SCALARS(operator-, a.v[i] - b.v[i])
SCALARS(operator*, a.v[i] * b.v[i])
SCALARS(operator/, a.v[i] / b.v[i])
// Of a NaN and a number both give the number that stands second, as x86 does.
SCALARS(larger, a.v[i] > b.v[i] ? a.v[i] : b.v[i])
SCALARS(smaller, a.v[i] < b.v[i] ? a.v[i] : b.v[i])
SCALARS(signed_as, bits_to_float((float_to_bits(a.v[i]) & 0x7fffffffu) | (float_to_bits(b.v[i]) & 0x80000000u)))
// Times two to the power of the whole number in the last bits of b, as exponential() has it.
SCALARS(times_power, bits_to_float(float_to_bits(a.v[i]) + (float_to_bits(b.v[i]) << 23)))
#undef SCALARS
template <int N>
inline Scalars<N> fused(Scalars<N> a, Scalars<N> b, Scalars<N> c) {
  return Scalars<N>::make([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
template <int N>
inline Scalars<N> rounded(Scalars<N> a) {
  return Scalars<N>::make([&](int i) { return __builtin_rintf(a.v[i]); });
}
template <int N>
inline Scalars<N> magnitude(Scalars<N> a) {
  return Scalars<N>::make([&](int i) { return bits_to_float(float_to_bits(a.v[i]) & 0x7fffffffu); });
}
template <int N>
inline Scalars<N> zero_below(Scalars<N> value, Scalars<N> x, float limit) {
  return Scalars<N>::make([&](int i) { return x.v[i] < limit ? 0.0f : value.v[i]; });
}
// Numbers of a table by the first twelve bits of x: sign, exponent and three more.
template <int N>
inline Scalars<N> looked_up(const float* table, Scalars<N> x) {
  return Scalars<N>::make([&](int i) { return table[float_to_bits(x.v[i]) >> 20]; });
}
template <int N>
inline Scalars<N> where_above(Scalars<N> x, Scalars<N> limit, Scalars<N> yes, Scalars<N> no) {
  return Scalars<N>::make([&](int i) { return x.v[i] > limit.v[i] ? yes.v[i] : no.v[i]; });
}
// Within a few units of the last place.
template <int N>
inline Scalars<N> near_inverse(Scalars<N> a) {
  return Scalars<N>::make([&](int i) { return 1.0f / a.v[i]; });
}
template <int N>
inline bool any_above(Scalars<N> a, Scalars<N> b) {
  for (int i = 0; i < N; ++i)
    if (!(a.v[i] <= b.v[i])) return true;
  return false;
}

#if defined(__AVX2__)
struct F8 {
  static constexpr int width = 8;
  __m256 v;
  static F8 set(float x) { return {_mm256_set1_ps(x)}; }
  static F8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static F8 load_bytes(const uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
  }
  static F8 load_sums(const int32_t* sums, const int32_t* offset, const int32_t* zero, int32_t row) {
    __m256i s = _mm256_add_epi32(_mm256_loadu_si256((const __m256i*)sums),
                                 _mm256_loadu_si256((const __m256i*)offset));
    __m256i z = _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i*)zero), _mm256_set1_epi32(row));
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(s, z))};
  }
  static F8 load_sums(const int32_t* sums, const int32_t* offset, int32_t minus) {
    __m256i s = _mm256_add_epi32(_mm256_loadu_si256((const __m256i*)sums),
                                 _mm256_loadu_si256((const __m256i*)offset));
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(s, _mm256_set1_epi32(minus)))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_bytes(uint8_t* p) const {
    __m256i i = _mm256_cvtps_epi32(v);
    __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(w, w));
  }
};
inline F8 operator+(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F8 operator-(F8 a, F8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F8 operator*(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F8 operator/(F8 a, F8 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F8 fused(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F8 larger(F8 a, F8 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F8 smaller(F8 a, F8 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F8 rounded(F8 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F8 magnitude(F8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline F8 signed_as(F8 a, F8 b) {
  return {_mm256_or_ps(magnitude(a).v, _mm256_and_ps(_mm256_set1_ps(-0.0f), b.v))};
}
inline F8 times_power(F8 a, F8 b) {
  __m256i power = _mm256_slli_epi32(_mm256_castps_si256(b.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), power))};
}
inline F8 zero_below(F8 value, F8 x, float limit) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(x.v, _mm256_set1_ps(limit), _CMP_LT_OQ), value.v)};
}
inline F8 looked_up(const float* table, F8 x) {
  return {_mm256_i32gather_ps(table, _mm256_srli_epi32(_mm256_castps_si256(x.v), 20), 4)};
}
inline F8 where_above(F8 x, F8 limit, F8 yes, F8 no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(x.v, limit.v, _CMP_GT_OQ))};
}
inline F8 near_inverse(F8 a) {
  const F8 first = {_mm256_rcp_ps(a.v)}, two = F8::set(2.0f);
  return {_mm256_mul_ps(first.v, _mm256_fnmadd_ps(a.v, first.v, two.v))};
}
inline bool any_above(F8 a, F8 b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_NLE_UQ)) != 0; }
#endif

#if defined(__AVX512F__)
struct F16 {
  static constexpr int width = 16;
  __m512 v;
  static F16 set(float x) { return {_mm512_set1_ps(x)}; }
  static F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F16 load_bytes(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
  }
  static F16 load_sums(const int32_t* sums, const int32_t* offset, const int32_t* zero, int32_t row) {
    __m512i s = _mm512_add_epi32(_mm512_loadu_si512(sums), _mm512_loadu_si512(offset));
    __m512i z = _mm512_mullo_epi32(_mm512_loadu_si512(zero), _mm512_set1_epi32(row));
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(s, z))};
  }
  static F16 load_sums(const int32_t* sums, const int32_t* offset, int32_t minus) {
    __m512i s = _mm512_add_epi32(_mm512_loadu_si512(sums), _mm512_loadu_si512(offset));
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(s, _mm512_set1_epi32(minus)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_bytes(uint8_t* p) const {
    _mm_storeu_si128((__m128i*)p, _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v)));
  }
};
inline F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F16 operator/(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F16 fused(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F16 larger(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F16 smaller(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F16 rounded(F16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline F16 magnitude(F16 a) { return {_mm512_abs_ps(a.v)}; }
inline F16 signed_as(F16 a, F16 b) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(sign, a.v), _mm512_and_ps(sign, b.v))};
}
inline F16 times_power(F16 a, F16 b) {
  __m512i power = _mm512_slli_epi32(_mm512_castps_si512(b.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), power))};
}
inline F16 zero_below(F16 value, F16 x, float limit) {
  __mmask16 keep = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ);
  return {_mm512_maskz_mov_ps(keep, value.v)};
}
inline F16 near_inverse(F16 a) {
  const F16 first = {_mm512_rcp14_ps(a.v)}, two = F16::set(2.0f);
  return {_mm512_mul_ps(first.v, _mm512_fnmadd_ps(a.v, first.v, two.v))};
}
inline bool any_above(F16 a, F16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NLE_UQ) != 0; }
#endif

// Two vectors side by side: the lanes of a wider machine on a narrower one.
template <class H>
struct Pair {
  static constexpr int width = 2 * H::width;
  H low, high;
  static Pair set(float x) { return {H::set(x), H::set(x)}; }
  static Pair load(const float* p) { return {H::load(p), H::load(p + H::width)}; }
  static Pair load_bytes(const uint8_t* p) { return {H::load_bytes(p), H::load_bytes(p + H::width)}; }
  static Pair load_sums(const int32_t* sums, const int32_t* offset, const int32_t* zero, int32_t row) {
    return {H::load_sums(sums, offset, zero, row),
            H::load_sums(sums + H::width, offset + H::width, zero + H::width, row)};
  }
  static Pair load_sums(const int32_t* sums, const int32_t* offset, int32_t minus) {
    return {H::load_sums(sums, offset, minus), H::load_sums(sums + H::width, offset + H::width, minus)};
  }
  void store(float* p) const {
    low.store(p);
    high.store(p + H::width);
  }
  void store_bytes(uint8_t* p) const {
    low.store_bytes(p);
    high.store_bytes(p + H::width);
  }
};
#define PAIRS(name)                                                                        \
  template <class H>                                                                       \
  inline Pair<H> name(Pair<H> a, Pair<H> b) {                                              \
    return {name(a.low, b.low), name(a.high, b.high)};                                     \
  }
PAIRS(operator+) PAIRS(operator-) PAIRS(operator*) PAIRS(operator/)
PAIRS(larger) PAIRS(smaller) PAIRS(times_power) PAIRS(signed_as)
#undef PAIRS
template <class H>
inline Pair<H> fused(Pair<H> a, Pair<H> b, Pair<H> c) {
  return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}
template <class H>
inline Pair<H> rounded(Pair<H> a) {
  return {rounded(a.low), rounded(a.high)};
}
template <class H>
inline Pair<H> magnitude(Pair<H> a) {
  return {magnitude(a.low), magnitude(a.high)};
}
template <class H>
inline Pair<H> zero_below(Pair<H> value, Pair<H> x, float limit) {
  return {zero_below(value.low, x.low, limit), zero_below(value.high, x.high, limit)};
}
template <class H>
inline Pair<H> looked_up(const float* table, Pair<H> x) {
  return {looked_up(table, x.low), looked_up(table, x.high)};
}
template <class H>
inline Pair<H> where_above(Pair<H> x, Pair<H> limit, Pair<H> yes, Pair<H> no) {
  return {where_above(x.low, limit.low, yes.low, no.low), where_above(x.high, limit.high, yes.high, no.high)};
}
template <class H>
inline Pair<H> near_inverse(Pair<H> a) {
  return {near_inverse(a.low), near_inverse(a.high)};
}
template <class H>
inline bool any_above(Pair<H> a, Pair<H> b) {
  return any_above(a.low, b.low) || any_above(a.high, b.high);
}

// The vectors of this level: its widest, and those of 4, 8 and 16 lanes, whose sums PyTorch's are: 4 on ARM alone.
#if defined(SAQSAM_PLAIN) || !(defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD))
typedef Scalars<8> Wide;
typedef Scalars<4> Lanes4;
typedef Scalars<8> Lanes8;
typedef Scalars<16> Lanes16;
#elif defined(__AVX512F__)
typedef F16 Wide;
typedef Scalars<4> Lanes4;
typedef F8 Lanes8;
typedef F16 Lanes16;
#elif defined(__AVX2__)
typedef F8 Wide;
typedef Scalars<4> Lanes4;
typedef F8 Lanes8;
typedef Pair<F8> Lanes16;
#else
typedef Pair<F4> Wide;
typedef F4 Lanes4;
typedef Pair<F4> Lanes8;
typedef Pair<Pair<F4>> Lanes16;
#endif

// The first `count` lanes from memory, `filler` in the others.
template <class V>
inline V load_part(const float* p, int count, float filler) {
  float lanes[V::width];
  for (int i = 0; i < V::width; ++i) lanes[i] = i < count ? p[i] : filler;
  return V::load(lanes);
}
template <class V>
inline void store_part(V x, float* p, int count) {
  float lanes[V::width];
  x.store(lanes);
  memcpy(p, lanes, sizeof(float) * count);
}
template <class V>
inline void store_bytes_part(V x, uint8_t* p, int count) {
  uint8_t lanes[V::width];
  x.store_bytes(lanes);
  memcpy(p, lanes, count);
}

}  // namespace
