// AVX-VNNI: vpdpbusd multiplies four codes with four signed steps and adds them in 32 bits, 8 columns at a time.
#include "level.h"

#if defined(__AVXVNNI__) && defined(__FMA__)
#include <immintrin.h>

#include "avx2_unpack.h"

namespace {

const int kTileRows = 6, kTileColumns = 16;
const uint8_t kFlip = 0;

template <int R>
void tile_bytes(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const char* row0 = (const char*)codes;
  const char* row3 = row0 + 3 * stride;
  const __m256i* weights = (const __m256i*)panel;
  __m256i total[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm256_setzero_si256();
  for (int64_t g = 0; g < groups; ++g) {
    const __m256i left = _mm256_loadu_si256(weights), right = _mm256_loadu_si256(weights + 1);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int32_t four;
      memcpy(&four, (r < 3 ? row0 : row3) + (r % 3) * stride, 4);
      const __m256i x = _mm256_set1_epi32(four);
      total[r][0] = _mm256_dpbusd_avx_epi32(total[r][0], x, left);
      total[r][1] = _mm256_dpbusd_avx_epi32(total[r][1], x, right);
    }
    weights += 2;
    row0 += 4;
    row3 += 4;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) _mm256_storeu_si256((__m256i*)sums + 2 * r + c, total[r][c]);
}

Tile tile_of(Kind, int rows) {
  static const Tile tiles[] = {nullptr,       tile_bytes<1>, tile_bytes<2>, tile_bytes<3>,
                               tile_bytes<4>, tile_bytes<5>, tile_bytes<6>};
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

const Level* level_avxvnni() {
  static const Level level = make_level();
  return &level;
}
#else
const Level* level_avxvnni() { return nullptr; }
#endif
