// AVX2: no instruction adds products of bytes in 32 bits, so how a tile adds depends on how large they can be.
#include "level.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "avx2_unpack.h"

namespace {

const int kTileRows = 6, kTileColumns = 16;
const uint8_t kFlip = 0;

// The compiler must not keep products to add them up in another order: it would run out of registers.
inline void in_order(__m256i& sum) { __asm__("" : "+x"(sum)); }

inline __m256i four_codes(const char* row) {
  int32_t four;
  memcpy(&four, row, 4);
  return _mm256_set1_epi32(four);
}

// Products of a code and a step are added in pairs by vpmaddubsw, in 16 bits. DEPTH of these are added up, also in
// 16 bits, before vpmaddwd adds neighbours into 32. Exact if 2 * DEPTH * |code| * |step| <= 32767.
template <int R, int DEPTH>
void tile_deep(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const char* row0 = (const char*)codes;
  const char* row3 = row0 + 3 * stride;
  const __m256i* weights = (const __m256i*)panel;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i* out = (__m256i*)sums;
  for (int i = 0; i < R * 2; ++i) _mm256_storeu_si256(out + i, _mm256_setzero_si256());
  for (int64_t g = 0; g < groups; g += DEPTH) {
    __m256i pairs[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int d = 0; d < DEPTH; ++d) {
      const __m256i left = _mm256_loadu_si256(weights), right = _mm256_loadu_si256(weights + 1);
      weights += 2;
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256i four = four_codes((r < 3 ? row0 : row3) + (r % 3) * stride + 4 * d);
        pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(four, left));
        in_order(pairs[r][0]);
        pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(four, right));
        in_order(pairs[r][1]);
      }
    }
    row0 += 4 * DEPTH;
    row3 += 4 * DEPTH;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        const __m256i four = _mm256_madd_epi16(pairs[r][c], ones);
        _mm256_storeu_si256(out + 2 * r + c, _mm256_add_epi32(_mm256_loadu_si256(out + 2 * r + c), four));
      }
  }
}

// Codes and steps as 16-bit words: vpmaddwd multiplies and adds pairs in 32 bits.
template <int R>
void tile_words(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const char* row0 = (const char*)codes;
  const char* row3 = row0 + 3 * stride;
  const __m256i* weights = (const __m256i*)panel;
  __m256i total[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm256_setzero_si256();
  for (int64_t g = 0; g < groups; ++g) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i left = _mm256_loadu_si256(weights + half), right = _mm256_loadu_si256(weights + 2 + half);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256i two = four_codes((r < 3 ? row0 : row3) + (r % 3) * stride + 4 * half);
        total[r][0] = _mm256_add_epi32(total[r][0], _mm256_madd_epi16(two, left));
        in_order(total[r][0]);
        total[r][1] = _mm256_add_epi32(total[r][1], _mm256_madd_epi16(two, right));
        in_order(total[r][1]);
      }
    }
    weights += 4;
    row0 += 8;
    row3 += 8;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) _mm256_storeu_si256((__m256i*)sums + 2 * r + c, total[r][c]);
}

template <int R>
Tile tile_for(Kind kind) {
  return kind == kWords ? tile_words<R> : kind == kShallow ? tile_deep<R, 4> : tile_deep<R, 8>;
}

Tile tile_of(Kind kind, int rows) {
  switch (rows) {
    case 1: return tile_for<1>(kind);
    case 2: return tile_for<2>(kind);
    case 3: return tile_for<3>(kind);
    case 4: return tile_for<4>(kind);
    case 5: return tile_for<5>(kind);
    default: return tile_for<6>(kind);
  }
}

Kind kind_of(int largest_code, int largest_step) {
  const int pair = 2 * largest_code * largest_step;
  return 8 * pair <= 32767 ? kBytes : 4 * pair <= 32767 ? kShallow : kWords;
}

// Four codes (0, 1, 2, 3) become the words (0, 2) and (1, 3), which costs a mask and a shift.
void widen(const uint8_t* codes, int16_t* words, int64_t count) {
  const __m256i low = _mm256_set1_epi16(255);
  for (int64_t i = 0; i < count; i += 32) {
    const __m256i x = _mm256_loadu_si256((const __m256i*)(codes + i));
    const __m256i even = _mm256_and_si256(x, low), odd = _mm256_srli_epi16(x, 8);
    const __m256i a = _mm256_unpacklo_epi32(even, odd), b = _mm256_unpackhi_epi32(even, odd);
    _mm256_storeu_si256((__m256i*)(words + i), _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((__m256i*)(words + i + 16), _mm256_permute2x128_si256(a, b, 0x31));
  }
}

// The same of steps, vector by vector: eight columns' words (0, 2), then their words (1, 3).
void widen_panel(const int8_t* bytes, int16_t* words, int64_t count) {
  for (int64_t i = 0; i < count; i += 32) {
    const __m256i x = _mm256_loadu_si256((const __m256i*)(bytes + i));
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
    _mm256_storeu_si256((__m256i*)(words + i), even);
    _mm256_storeu_si256((__m256i*)(words + i + 16), odd);
  }
}

}  // namespace

#include "steps.h"
#include "attention.h"
#include "cross.h"
#include "settle.h"
#include "upscale.h"
#include "table.h"

const Level* level_avx2() {
  static const Level level = make_level();
  return &level;
}
#else
const Level* level_avx2() { return nullptr; }
#endif
