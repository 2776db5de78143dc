// What one level of instructions offers: tiles of sums, and the float steps around them.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "saqsam_native.h"

const int kMostRows = 32, kMostColumns = 32;

// How a tile adds up. All are exact; which is fastest depends on how large products can be.
enum Kind {
  kBytes,   // u8 x s8, sums of 32 bits; without VNNI of 16 bits, eight pairs of products deep
  kShallow, // as kBytes without VNNI, four pairs deep
  kWords,   // s16 x s16, sums of 32 bits
  kKinds
};

// sums (rows, columns of the level) of `groups` groups of four codes.
// codes: u8, or for kWords s16 as `widen` gives them; stride: bytes from row to row.
// panel: s8 (groups, columns, 4), or for kWords as `widen_panel` gives it.
typedef void (*Tile)(const void* codes, ptrdiff_t stride, const void* panel, int64_t groups, int32_t* sums);

struct Level {
  void (*begin)(), (*end)();  // NULL, or before and after a thread's tiles, see Tiles
  int rows, columns;  // of a tile
  int float_columns;  // of a panel of floats
  Tile tiles[kKinds][kMostRows + 1];
  uint8_t flip;       // which bits of a step are turned over in a panel: none, or the sign, so that steps are unsigned
  Kind (*kind)(int largest_code, int largest_step);
  void (*unpack)(const uint8_t* nibbles, int8_t* bytes, int64_t count);
  void (*widen)(const uint8_t* codes, int16_t* words, int64_t count);
  void (*widen_panel)(const int8_t* bytes, int16_t* words, int64_t count);
  void (*row_sums)(const uint8_t* codes, int64_t stride, int64_t rows, int64_t inner, int32_t* sums);
  void (*finish)(const saqsam_linear_job& job, const int32_t* sums, const int32_t* row_sums, int64_t row, int rows,
                 int64_t column);
  void (*norm)(const saqsam_norm_job& job, int64_t row, float* scratch);
  int64_t (*attention_bytes)(const saqsam_attention_job& job);
  void (*pack_map)(const saqsam_attention_job& job, int64_t map, void* packed);
  int64_t (*attention_scratch)(const saqsam_attention_job& job);
  void (*attend)(const saqsam_attention_job& job, int64_t map, int64_t part, const void* packed, void* scratch);
  // Of some rows, all of them of one prompt; scratch: bytes that the other function asks for.
  void (*settle)(const saqsam_image_job& job, int64_t first, int64_t rows, float* x, uint8_t* const* codes,
                 int64_t stride);
  int64_t (*image_asks_scratch)(const saqsam_cross_job& job);
  void (*image_asks)(const saqsam_cross_job& job, int64_t first, int64_t rows, void* scratch);
  int64_t (*tokens_ask_scratch)(const saqsam_cross_job& job);
  void (*tokens_ask)(const saqsam_cross_job& job, int64_t prompt, void* scratch);
  int64_t (*upscale_scratch)(const saqsam_upscale_job& job);
  void (*upscale)(const saqsam_upscale_job& job, int64_t first, int64_t rows, void* scratch);
};

// One for each file that is compiled for a level; NULL where the file was not compiled for it.
const Level* level_plain();
const Level* level_avx2();
const Level* level_avxvnni();
const Level* level_avx512vnni();
const Level* level_neondotprod();
const Level* level_amx();
const Level* level_of(int index);

// While there is one, this thread's tiles may be computed. There is one at a time.
class Tiles {
 public:
  explicit Tiles(const Level& level) : end(level.end) {
    if (level.begin) level.begin();
  }
  ~Tiles() {
    if (end) end();
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  void (*end)();
};

inline int64_t padded(int64_t inner) { return (inner + 31) / 32 * 32; }

// Some rows of a linear layer, by this thread, which has its Tiles; scratch: so many bytes as the first function says.
int64_t linear_scratch(const Level& level, const saqsam_linear_job& job, int64_t rows);
void linear_rows(const Level& level, const saqsam_linear_job& job, int64_t first, int64_t rows, void* scratch);
