// A tile of integer products by vpdpbusd, 16 columns at once, for the levels that have AVX-512 VNNI.
#pragma once
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

namespace {

template <int R>
void tile_bytes(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const char *row0 = (const char*)codes, *row3 = row0 + 3 * stride, *row6 = row0 + 6 * stride,
             *row9 = row0 + 9 * stride;
  const char* weights = (const char*)panel;
  __m512i total[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm512_setzero_si512();
  for (int64_t g = 0; g < groups; ++g) {
    const __m512i left = _mm512_loadu_si512(weights), right = _mm512_loadu_si512(weights + 64);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      int32_t four;
      memcpy(&four, (r < 3 ? row0 : r < 6 ? row3 : r < 9 ? row6 : row9) + (r % 3) * stride, 4);
      const __m512i x = _mm512_set1_epi32(four);
      total[r][0] = _mm512_dpbusd_epi32(total[r][0], x, left);
      total[r][1] = _mm512_dpbusd_epi32(total[r][1], x, right);
    }
    weights += 128;
    row0 += 4;
    row3 += 4;
    row6 += 4;
    row9 += 4;
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) _mm512_storeu_si512((__m512i*)sums + 2 * r + c, total[r][c]);
}

}  // namespace
