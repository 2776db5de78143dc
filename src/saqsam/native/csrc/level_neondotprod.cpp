// NEON with dot product: udot multiplies four codes with four steps, both unsigned, and adds them in 32 bits, four
// columns at once. There is none of a code without and a step with a sign. So steps lie in panels as step + 128, and
// what is too much, 128 times the sum of a row's codes, is taken off beforehand: modulo 2^32, so exactly.
#include "level.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

namespace {

const int kTileRows = 6, kTileColumns = 16;
const uint8_t kFlip = 128;

// Adds the products of group LANE of four groups of codes.
template <int LANE, int R>
inline void add_group(const uint8x16_t (&codes)[R], const uint8_t* steps, uint32x4_t (&total)[R][4]) {
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const uint8x16_t four = vld1q_u8(steps + (LANE * 4 + c) * 16);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) total[r][c] = vdotq_laneq_u32(total[r][c], four, codes[r], LANE);
    __asm__ volatile("" ::: "memory");  // what is loaded sooner takes registers that there are not
  }
}

template <int R>
void tile_bytes(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const uint8_t *row0 = (const uint8_t*)codes, *row3 = row0 + 3 * stride, *steps = (const uint8_t*)panel;
  uint32x4_t total[R][4], extra[R];
  uint8x16_t next[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) extra[r] = vdupq_n_u32(0);
  for (int64_t g = 0; g < groups; g += 4)  // there are whole blocks of eight
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
      extra[r] = vdotq_u32(extra[r], vld1q_u8((r < 3 ? row0 : row3) + (r % 3) * stride + 4 * g), vdupq_n_u8(kFlip));
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) total[r][c] = vdupq_n_u32(0u - vaddvq_u32(extra[r]));
  for (int64_t g = 0; g < groups; g += 4) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) next[r] = vld1q_u8((r < 3 ? row0 : row3) + (r % 3) * stride);
    add_group<0>(next, steps, total);
    add_group<1>(next, steps, total);
    add_group<2>(next, steps, total);
    add_group<3>(next, steps, total);
    row0 += 16;
    row3 += 16;
    steps += 16 * kTileColumns;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) vst1q_s32(sums + r * kTileColumns + 4 * c, vreinterpretq_s32_u32(total[r][c]));
}

Tile tile_of(Kind, int rows) {
  static const Tile tiles[] = {nullptr,       tile_bytes<1>, tile_bytes<2>, tile_bytes<3>,
                               tile_bytes<4>, tile_bytes<5>, tile_bytes<6>};
  return tiles[rows];
}

Kind kind_of(int, int) { return kBytes; }

// Half bytes, steps + 8, to steps + 128.
void unpack(const uint8_t* nibbles, int8_t* bytes, int64_t count) {
  const uint8x16_t up = vdupq_n_u8(128 - 8);
  uint8_t* out = (uint8_t*)bytes;
  for (int64_t at = 0; at < count; at += 64)
    for (int i = 0; i < 32; i += 16) {
      const uint8x16_t x = vld1q_u8(nibbles + at / 2 + i);
      vst1q_u8(out + at + i, vaddq_u8(vandq_u8(x, vdupq_n_u8(15)), up));
      vst1q_u8(out + at + 32 + i, vaddq_u8(vshrq_n_u8(x, 4), up));
    }
}

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

const Level* level_neondotprod() {
  static const Level level = make_level();
  return &level;
}
#else
const Level* level_neondotprod() { return nullptr; }
#endif
