// Plain C++: what every other level is compared with, and what runs where there is none.
#define SAQSAM_PLAIN
#include "level.h"

namespace {

const int kTileRows = 4, kTileColumns = 16;
const uint8_t kFlip = 0;

template <int R>
void tile_bytes(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const int8_t* weights = (const int8_t*)panel;
  for (int i = 0; i < R * kTileColumns; ++i) sums[i] = 0;
  for (int64_t g = 0; g < groups; ++g, weights += kTileColumns * 4)
    for (int r = 0; r < R; ++r) {
      const uint8_t* row = (const uint8_t*)codes + r * stride + g * 4;
      for (int c = 0; c < kTileColumns; ++c)
        for (int k = 0; k < 4; ++k) sums[r * kTileColumns + c] += row[k] * weights[c * 4 + k];
    }
}

Tile tile_of(Kind, int rows) {
  static const Tile tiles[] = {nullptr, tile_bytes<1>, tile_bytes<2>, tile_bytes<3>, tile_bytes<4>};
  return tiles[rows];
}

Kind kind_of(int, int) { return kBytes; }

void unpack(const uint8_t* nibbles, int8_t* bytes, int64_t count) {
  for (int64_t at = 0; at < count; at += 64)
    for (int i = 0; i < 32; ++i) {
      const uint8_t pair = nibbles[at / 2 + i];
      bytes[at + i] = (int8_t)((pair & 15) - 8);
      bytes[at + 32 + i] = (int8_t)((pair >> 4) - 8);
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

const Level* level_plain() {
  static const Level level = make_level();
  return &level;
}
