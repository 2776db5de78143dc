// AVX-512 VNNI: vpdpbusd multiplies four codes with four signed steps and adds them in 32 bits, 16 columns at once.
#include "level.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include "avx2_unpack.h"
#include "avx512_tile.h"

namespace {

const int kTileRows = 12, kTileColumns = 32;
const uint8_t kFlip = 0;

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
