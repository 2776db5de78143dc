// AMX: tdpbusd multiplies a tile of 16 rows of 64 codes with one of 64 rows of 16 steps and adds in 32 bits. Float
// steps are AVX-512's, and so are products of rows that do not fill a tile.
#include "level.h"

#if defined(__AMX_INT8__) && defined(__AMX_TILE__) && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <utility>

#include "avx2_unpack.h"
#include "avx512_tile.h"

namespace {

const int kTileRows = 32, kTileColumns = 32;
const uint8_t kFlip = 0;
const int kDepth = 16;                           // groups of four codes in a tile register
const int64_t kPanelStride = kTileColumns * 4;   // bytes of a group in a panel

// What the compiler knows of memory is written before a tile is loaded; GCC 12's intrinsics do not ask for it.
inline void settled() { __asm__ volatile("" ::: "memory"); }

// One tile register's depth of products of 16 rows, or 32, into registers 0 to 3.
template <bool Both>
inline void multiply(const char* codes, ptrdiff_t stride, const char* panel) {
  _tile_loadd(4, codes, stride);
  _tile_loadd(6, panel, kPanelStride);
  _tile_loadd(7, panel + 64, kPanelStride);
  _tile_dpbusd(0, 4, 6);
  _tile_dpbusd(1, 4, 7);
  if (!Both) return;
  _tile_loadd(5, codes + 16 * stride, stride);
  _tile_dpbusd(2, 5, 6);
  _tile_dpbusd(3, 5, 7);
}

// 16 or 32 rows of at least kDepth groups. What is beyond whole tiles is multiplied in one that overlaps the one
// before, with zeros for what was multiplied already.
template <bool Both>
void tile_registers(const char* codes, ptrdiff_t stride, const char* panel, int64_t groups, int32_t* sums) {
  const int64_t rest = groups % kDepth, done = (kDepth - rest) * kPanelStride;
  alignas(64) char last[kDepth * kPanelStride];
  if (rest) {
    memset(last, 0, done);
    memcpy(last + done, panel + (groups - rest) * kPanelStride, rest * kPanelStride);
  }
  settled();
  _tile_zero(0);
  _tile_zero(1);
  if (Both) _tile_zero(2);
  if (Both) _tile_zero(3);
  for (int64_t g = 0; g + kDepth <= groups; g += kDepth) multiply<Both>(codes + 4 * g, stride, panel + g * kPanelStride);
  if (rest) multiply<Both>(codes + 4 * (groups - kDepth), stride, last);
  _tile_stored(0, sums, kPanelStride);
  _tile_stored(1, sums + 16, kPanelStride);
  if (Both) _tile_stored(2, sums + 16 * kTileColumns, kPanelStride);
  if (Both) _tile_stored(3, sums + 16 * kTileColumns + 16, kPanelStride);
  settled();
}

// Any number of rows, by vectors.
template <int R>
void vector_rows(const char* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const int most = R < 12 ? R : 12;
  tile_bytes<most>(codes, stride, panel, groups, sums);
  if constexpr (R > most) vector_rows<R - most>(codes + most * stride, stride, panel, groups, sums + most * kTileColumns);
}

template <int R>
void tile_rows(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums) {
  const char* rows = (const char*)codes;
  if (R < 16 || groups < kDepth) return vector_rows<R>(rows, stride, panel, groups, sums);
  tile_registers<R == 32>(rows, stride, (const char*)panel, groups, sums);
  if constexpr (R > 16 && R < 32)
    vector_rows<R - 16>(rows + 16 * stride, stride, panel, groups, sums + 16 * kTileColumns);
}

template <int... R>
Tile nth(int rows, std::integer_sequence<int, R...>) {
  static const Tile tiles[] = {tile_rows<R + 1>...};
  return tiles[rows - 1];
}

Tile tile_of(Kind, int rows) { return nth(rows, std::make_integer_sequence<int, kTileRows>()); }

Kind kind_of(int, int) { return kBytes; }

// No tile here takes words.
void widen(const uint8_t*, int16_t*, int64_t) {}
void widen_panel(const int8_t*, int16_t*, int64_t) {}

// Eight registers of 16 rows of 64 bytes each.
void shape_registers() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shape;
  settled();
  _tile_loadconfig(&shape);
}

void free_registers() { _tile_release(); }

}  // namespace

#include "steps.h"
#include "attention.h"
#include "cross.h"
#include "settle.h"
#include "upscale.h"
#include "table.h"

namespace {

Level with_registers() {
  Level level = make_level();
  level.begin = shape_registers;
  level.end = free_registers;
  return level;
}

}  // namespace

const Level* level_amx() {
  static const Level level = with_registers();
  return &level;
}
#else
const Level* level_amx() { return nullptr; }
#endif
