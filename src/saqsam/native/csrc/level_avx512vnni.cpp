// AVX-512 VNNI: vpdpbusd multiplies four codes with four signed steps and adds them in 32 bits, 16 columns at once.
#include "level.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>

#include "avx2_unpack.h"

namespace {

const int kTileRows = 12, kTileColumns = 32;
const uint8_t kFlip = 0;

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

Tile tile_of(Kind, int rows) {
  static const Tile tiles[] = {nullptr,       tile_bytes<1>, tile_bytes<2>,  tile_bytes<3>,  tile_bytes<4>,
                               tile_bytes<5>, tile_bytes<6>, tile_bytes<7>,  tile_bytes<8>,  tile_bytes<9>,
                               tile_bytes<10>, tile_bytes<11>, tile_bytes<12>};
  return tiles[rows];
}

Kind kind_of(int, int) { return kBytes; }

// No tile here takes words.
void widen(const uint8_t*, int16_t*, int64_t) {}
void widen_panel(const int8_t*, int16_t*, int64_t) {}

}  // namespace

#include "steps.h"
#include "attention.h"
#include "cross.h"
#include "settle.h"
#include "upscale.h"
#include "table.h"

const Level* level_avx512vnni() {
  static const Level level = make_level();
  return &level;
}
#else
const Level* level_avx512vnni() { return nullptr; }
#endif
