// Linear layers: weights in tiles, and the loops around the tiles.
#include <string.h>

#include "level.h"
#include "pool.h"

namespace {

// Bytes of one panel, the steps of as many columns as a tile has: s8 (groups, columns, 4).
int64_t panel_bytes(const Level& level, int64_t inner) { return padded(inner) * level.columns; }
int64_t panels(const Level& level, int64_t columns) { return (columns + level.columns - 1) / level.columns; }

struct Linear {
  const Level* level;
  const saqsam_linear_job* job;
  Kind kind;
  int64_t block, panels, panel;  // rows of a task, panels, bytes of a panel
  bool sums;                     // of rows are needed
};

// As many rows as stay in the cache beside a panel, but enough tasks that no thread waits long for the last.
int64_t rows_of_task(const Level& level, const saqsam_linear_job& job, int threads) {
  const int64_t tile = level.rows, cached = (256 << 10) / padded(job.inner);
  int64_t rows = (job.rows + 4 * threads - 1) / (4 * threads);
  if (rows > cached) rows = cached;
  if (rows < 4 * tile) rows = 4 * tile;  // a panel that is unpacked should be used
  return (rows + tile - 1) / tile * tile;
}

// Scratch: the panel as bytes, as words; codes as words; sums of rows; sums of a tile.
int64_t scratch_bytes(const Linear& linear, int64_t rows) {
  const int64_t words = linear.kind == kWords ? 2 * (linear.panel + rows * padded(linear.job->inner)) : 0;
  return linear.panel + words + 4 * rows + 4 * kMostRows * kMostColumns;
}

void run_rows(const Linear& linear, int64_t first, int64_t rows, void* scratch) {
  const Level& level = *linear.level;
  const saqsam_linear_job& job = *linear.job;
  const int64_t inner = padded(job.inner);
  const bool words = linear.kind == kWords;
  const int64_t wide_panel = words ? 2 * linear.panel : 0, wide_codes = words ? 2 * rows * inner : 0;
  char* at = (char*)scratch;
  int8_t* bytes = (int8_t*)at;
  int16_t* panel_words = (int16_t*)(at += linear.panel);
  int16_t* code_words = (int16_t*)(at += wide_panel);
  int32_t* row_sums = (int32_t*)(at += wide_codes);
  int32_t* sums = row_sums + rows;
  const uint8_t* codes = job.codes + first * job.code_stride;
  if (linear.sums) level.row_sums(codes, job.code_stride, rows, job.inner, row_sums);
  else memset(row_sums, 0, 4 * rows);
  if (words)
    for (int64_t r = 0; r < rows; ++r) level.widen(codes + r * job.code_stride, code_words + r * inner, inner);
  const char* left = words ? (const char*)code_words : (const char*)codes;
  const int64_t stride = words ? 2 * inner : job.code_stride;
  for (int64_t p = 0; p < linear.panels; ++p) {
    const void* panel = job.weight + p * linear.panel;
    if (job.weight_bits == 4) {
      level.unpack(job.weight + p * linear.panel / 2, bytes, linear.panel);
      panel = bytes;
    }
    if (words) {
      level.widen_panel((const int8_t*)panel, panel_words, linear.panel);
      panel = panel_words;
    }
    for (int64_t r = 0; r < rows; r += level.rows) {
      const int count = rows - r < level.rows ? (int)(rows - r) : level.rows;
      level.tiles[linear.kind][count](left + r * stride, stride, panel, inner / 4, sums);
      level.finish(job, sums, row_sums + r, first + r, count, p * level.columns);
    }
  }
}

void run_block(void* context, int64_t index) {
  const Linear& linear = *(const Linear*)context;
  const Tiles tiles(*linear.level);
  const int64_t first = index * linear.block, left = linear.job->rows - first;
  const int64_t rows = left < linear.block ? left : linear.block;
  run_rows(linear, first, rows, thread_scratch(scratch_bytes(linear, rows)));
}

Linear linear_of(const Level& level, const saqsam_linear_job& job) {
  Linear linear;
  linear.level = &level;
  linear.job = &job;
  linear.kind = level.kind(job.largest_code, job.largest_step);
  linear.block = job.rows;
  linear.panels = panels(level, job.columns);
  linear.panel = panel_bytes(level, job.inner);
  linear.sums = false;
  for (int64_t n = 0; n < job.columns && !linear.sums; ++n) linear.sums = job.zero[n] != 0;
  return linear;
}

// Four codes, or the last ones of a row, into their bytes: turned by `middle`, or in the half that `halves`,
// moved up by `high` bits, says.
inline void put(uint8_t* bytes, const uint8_t* codes, int64_t left, uint32_t halves, uint32_t middle, int high) {
  const uint32_t kept = halves ? ~(halves << high) : 0, taken = halves ? halves : ~0u;
  uint32_t steps = 0, there = 0;
  const auto copy = [left](void* to, const void* from) {
    if (left >= 4)
      memcpy(to, from, 4);
    else
      memcpy(to, from, (size_t)left);
  };
  copy(&steps, codes);
  copy(&there, bytes);
  there = (there & kept) | (((steps ^ middle) & taken) << high);
  copy(bytes, &there);
}

}  // namespace

int64_t saqsam_pack_weight(int32_t index, int32_t bits, const uint8_t* codes, int64_t columns, int64_t inner,
                           uint8_t* out) {
  const Level& level = *level_of(index);
  const int64_t panel = panel_bytes(level, inner), count = panels(level, columns);
  const int64_t size = count * panel * bits / 8;
  if (!out) return size;
  memset(out, bits == 4 ? 0x88 : level.flip, size);
  const uint32_t middle = 0x01010101u * (uint8_t)(128 ^ level.flip);
  const int64_t wide = level.columns;  // a byte that is written may be part of anything, so not read again
  for (int64_t n = 0; n < columns; ++n) {
    const uint8_t* row = codes + n * inner;
    uint8_t* own = out + n / wide * panel * bits / 8;
    for (int64_t k = 0, place = n % wide * 4; k < inner; k += 4, place += wide * 4)
      if (bits == 8)
        put(own + place, row + k, inner - k, 0, middle, 0);
      else  // of 64 steps, the first 32 are in the low halves of 32 bytes, the others in the high halves
        put(own + place / 64 * 32 + place % 32, row + k, inner - k, 0x0F0F0F0F, 0, place % 64 / 32 * 4);
  }
  return size;
}

int64_t linear_scratch(const Level& level, const saqsam_linear_job& job, int64_t rows) {
  return scratch_bytes(linear_of(level, job), rows);
}

void linear_rows(const Level& level, const saqsam_linear_job& job, int64_t first, int64_t rows, void* scratch) {
  run_rows(linear_of(level, job), first, rows, scratch);
}

void saqsam_linear(int32_t index, int32_t threads, const saqsam_linear_job* job) {
  Linear linear = linear_of(*level_of(index), *job);
  linear.block = rows_of_task(*linear.level, *job, threads);
  run_parallel((job->rows + linear.block - 1) / linear.block, threads, run_block, &linear);
}
