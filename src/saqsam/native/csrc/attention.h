// Attention of a few queries of one map at a time, for the level that includes this.
//
// A map is one head of one window. Its keys and values are packed once, as the panels that tiles multiply with;
// then every part, the queries of one tile, is scores -> softmax -> codes of the map -> sums of values -> codes.
// Nothing of the size of the map is ever held: a part's scores are rows * keys floats, which stay in the cache.
#pragma once
#include "floats.h"
#include "level.h"
#include "steps.h"

namespace {

struct Shape {  // sizes that follow from a job
  int64_t keys, key_panels, width, groups;  // groups of four channels, of queries and keys
  int64_t value_panels, key_groups;         // groups of four keys, of maps and values
  Kind scores, gather;
};

Shape shape_of(const saqsam_attention_job& job) {
  Shape s;
  s.keys = job.window * job.window;
  s.key_panels = (s.keys + kTileColumns - 1) / kTileColumns;
  s.width = job.width;
  s.groups = padded(job.width) / 4;
  s.value_panels = (job.width + kTileColumns - 1) / kTileColumns;
  s.key_groups = padded(s.keys) / 4;
  s.scores = kind_of(job.query_top, job.key_top < 128 ? (job.key_zero > job.key_top - job.key_zero
                                                             ? job.key_zero : job.key_top - job.key_zero) : 128);
  s.gather = kind_of((int)job.map_top, job.value_top < 128 ? (job.value_zero > job.value_top - job.value_zero
                                                                  ? job.value_zero : job.value_top - job.value_zero) : 128);
  return s;
}

// What is taken from codes before they are multiplied: zero itself where steps fit signed bytes, else the middle.
int shift_of(int zero, int top) { return top < 128 ? zero : 128; }

struct Packed {  // views into the bytes of one packed map
  int8_t *keys, *values;
  float* value_floats;
  int32_t *key_offsets, *value_offsets;  // added to each column of scores, of outputs
};

int64_t in_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int bytes_of(Kind kind) { return kind == kWords ? 2 : 1; }

int64_t lay_out(const saqsam_attention_job& job, const Shape& s, void* base, Packed* packed) {
  char* at = (char*)base;
  packed->keys = (int8_t*)at;
  at += in_lines(s.key_panels * s.groups * kTileColumns * 4 * bytes_of(s.scores));
  packed->key_offsets = (int32_t*)at;
  at += in_lines(s.key_panels * kTileColumns * 4);
  packed->value_offsets = (int32_t*)at;
  at += in_lines(s.value_panels * kTileColumns * 4);
  packed->values = (int8_t*)at;
  packed->value_floats = (float*)at;
  at += job.level_limits ? in_lines(s.keys * s.value_panels * kTileColumns * 4)
                         : in_lines(s.value_panels * s.key_groups * kTileColumns * 4 * bytes_of(s.gather));
  return at - (char*)base;
}

int64_t attention_bytes(const saqsam_attention_job& job) {
  Packed packed;
  return lay_out(job, shape_of(job), nullptr, &packed);
}

struct Window {  // which tokens a map is about
  int64_t y, x, head;
};
Window window_of(const saqsam_attention_job& job, int64_t map) {
  const int64_t count = (job.side + job.window - 1) / job.window, window = map / job.heads;
  return {window / count * job.window, window % count * job.window, map % job.heads};
}

// Codes of one token's key (part 1) or value (2).
const uint8_t* token_codes(const saqsam_attention_job& job, const Window& w, int64_t local, int part) {
  const int64_t y = w.y + local / job.window, x = w.x + local % job.window;
  const uint8_t* token =
      y < job.side && x < job.side ? job.codes + (y * job.side + x) * job.code_stride : job.padding;
  return token + (part * job.heads + w.head) * job.width;
}

// A byte panel as what the tiles of `kind` take, in place: words are made from the end.
void settle_panel(Kind kind, int8_t* bytes, int64_t count) {
  for (int64_t i = 0; i < count && kFlip; ++i) bytes[i] = (int8_t)((uint8_t)bytes[i] ^ kFlip);
  if (kind != kWords) return;
  int16_t* words = (int16_t*)bytes;
  for (int64_t at = count - 64; at >= 0; at -= 64) {
    int8_t block[64];
    memcpy(block, bytes + at, 64);
    widen_panel(block, words + at, 64);
  }
}

// Steps of four codes at once: each byte less `shift`, which is 128, or the zero of codes below 128.
inline uint32_t steps_of(uint32_t codes, uint32_t shift) {
  const uint32_t high = 0x80808080u;
  return shift == 128 ? codes ^ high : ((codes | high) - shift * 0x01010101u) ^ high;
}

void pack_keys(const saqsam_attention_job& job, const Shape& s, const Window& w, Packed& packed) {
  const int shift = shift_of(job.key_zero, job.key_top);
  const int64_t bytes = s.key_panels * s.groups * kTileColumns * 4, rest = job.width % 4;
  memset(packed.keys, 0, bytes);
  memset(packed.key_offsets, 0, s.key_panels * kTileColumns * 4);
  for (int64_t key = 0; key < s.keys; ++key) {
    const uint8_t* codes = token_codes(job, w, key, 1);
    int8_t* to = packed.keys + key / kTileColumns * s.groups * kTileColumns * 4 + key % kTileColumns * 4;
    int64_t c = 0;
    uint32_t four;
    for (; c + 4 <= job.width; c += 4, to += kTileColumns * 4) {
      memcpy(&four, codes + c, 4);
      four = steps_of(four, shift);
      memcpy(to, &four, 4);
    }
    for (int64_t i = 0; i < rest; ++i) to[i] = (int8_t)((int)codes[c + i] - shift);
    packed.key_offsets[key] = sum_of(codes, job.width) - (int32_t)job.width * shift;
  }
  const int32_t origin = (int32_t)job.width * job.query_zero * (job.key_zero - shift);
  for (int64_t key = 0; key < s.key_panels * kTileColumns; ++key)
    packed.key_offsets[key] = origin - job.query_zero * packed.key_offsets[key];
  settle_panel(s.scores, packed.keys, bytes);
}

void pack_value_floats(const saqsam_attention_job& job, const Shape& s, const Window& w, Packed& packed) {
  const int64_t columns = s.value_panels * kTileColumns;
  for (int64_t key = 0; key < s.keys; ++key) {
    const uint8_t* codes = token_codes(job, w, key, 2);
    for (int64_t c = 0; c < columns; ++c)
      packed.value_floats[key * columns + c] =
          c < job.width ? ((float)codes[c] - (float)job.value_zero) * job.value_scale : 0.0f;
  }
}

// Four keys at a time, a byte of each side by side; of those that there are not, zeros.
void pack_values(const saqsam_attention_job& job, const Shape& s, const Window& w, Packed& packed) {
  const int shift = shift_of(job.value_zero, job.value_top);
  const int64_t bytes = s.value_panels * s.key_groups * kTileColumns * 4;
  memset(packed.values, 0, bytes);
  memset(packed.value_offsets, 0, s.value_panels * kTileColumns * 4);
  for (int64_t key = 0; key < s.keys; key += 4) {
    const int64_t last = s.keys - 1;
    const uint8_t* rows[4];
    for (int64_t i = 0; i < 4; ++i) rows[i] = token_codes(job, w, key + i < last ? key + i : last, 2);
    const uint32_t there = key + 3 < s.keys ? ~0u : (1u << 8 * (s.keys - key)) - 1;
    for (int64_t p = 0; p < s.value_panels; ++p) {
      const int64_t first = p * kTileColumns, left = job.width - first;
      const int64_t count = left < kTileColumns ? left : kTileColumns;
      int8_t* to = packed.values + (p * s.key_groups * kTileColumns + key / 4 * kTileColumns) * 4;
      int32_t* sums = packed.value_offsets + first;
      for (int64_t c = 0; c < count; ++c) {
        const uint32_t a = rows[0][first + c], b = rows[1][first + c], d = rows[2][first + c], e = rows[3][first + c];
        const uint32_t codes = (a | b << 8 | d << 16 | e << 24) & there, steps = steps_of(codes, shift) & there;
        memcpy(to + 4 * c, &steps, 4);
        sums[c] += (int32_t)((codes & 255) + (codes >> 8 & 255) + (codes >> 16 & 255) + (codes >> 24));
      }
    }
  }
  const int32_t origin = (int32_t)job.map_zero, keys = (int32_t)s.keys;
  for (int64_t c = 0; c < job.width; ++c)
    packed.value_offsets[c] = -origin * (packed.value_offsets[c] - keys * shift) + keys * origin * (job.value_zero - shift);
  settle_panel(s.gather, packed.values, bytes);
}

void pack_map(const saqsam_attention_job& job, int64_t map, void* base) {
  const Shape s = shape_of(job);
  Packed packed;
  lay_out(job, s, base, &packed);
  const Window w = window_of(job, map);
  pack_keys(job, s, w, packed);
  if (job.level_limits) pack_value_floats(job, s, w, packed);
  else pack_values(job, s, w, packed);
}

struct Scratch {
  float *scores, *bias, *by_row, *by_column, *query, *outputs;
  uint8_t *codes, *queries;
  int16_t *words;
  int64_t score_stride, code_stride;
};

int64_t lay_scratch(const saqsam_attention_job& job, const Shape& s, void* base, Scratch* scratch) {
  char* at = (char*)base;
  scratch->score_stride = s.key_panels * kTileColumns + 16;  // not a multiple of a page
  scratch->code_stride = padded(s.keys) + 64;
  const int64_t widest = scratch->code_stride > padded(s.width) ? scratch->code_stride : padded(s.width);
  const int64_t columns = s.value_panels * kTileColumns;
  scratch->scores = (float*)at;
  at += in_lines(kTileRows * scratch->score_stride * 4);
  scratch->bias = (float*)at;  // of windows whose rows are no whole tiles; else it is made in registers
  at += job.window % kTileColumns ? in_lines(kTileRows * scratch->score_stride * 4) : 0;
  scratch->by_row = (float*)at;
  at += in_lines(kTileRows * job.table_stride * 4);
  scratch->by_column = (float*)at;
  at += in_lines(kTileRows * job.table_stride * 4);
  scratch->query = (float*)at;
  at += in_lines(2 * padded(s.width) * 4);
  scratch->outputs = (float*)at;
  at += in_lines(kTileRows * columns * 4);
  scratch->codes = (uint8_t*)at;
  at += in_lines(kTileRows * scratch->code_stride);
  scratch->queries = (uint8_t*)at;
  at += in_lines(kTileRows * padded(s.width));
  scratch->words = (int16_t*)at;
  at += in_lines(kTileRows * widest * 2);
  return at - (char*)base;
}

int64_t attention_scratch(const saqsam_attention_job& job) {
  Scratch scratch;
  return lay_scratch(job, shape_of(job), nullptr, &scratch);
}

}  // namespace

#include "attend.h"
