// Attention of a few queries of one map at a time, for the level that includes this.
//
// A map is one head of one window. Its keys and values are packed once, as the panels that tiles multiply with;
// then every part, the queries of one tile, is scores -> softmax -> codes of the map -> sums of values -> codes.
// Nothing of the size of the map is ever held: a part's scores are rows * keys floats, which stay in the cache.
#pragma once
#include "floats.h"
#include "level.h"

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

void pack_map(const saqsam_attention_job& job, int64_t map, void* base) {
  const Shape s = shape_of(job);
  Packed packed;
  lay_out(job, s, base, &packed);
  const Window w = window_of(job, map);
  const int key_shift = shift_of(job.key_zero, job.key_top), value_shift = shift_of(job.value_zero, job.value_top);
  const int64_t key_bytes = s.key_panels * s.groups * kTileColumns * 4;
  memset(packed.keys, 0, key_bytes);
  for (int64_t key = 0; key < s.key_panels * kTileColumns; ++key) {
    int32_t sum = 0;
    if (key < s.keys) {
      const uint8_t* codes = token_codes(job, w, key, 1);
      int8_t* to = packed.keys + key / kTileColumns * s.groups * kTileColumns * 4 + key % kTileColumns * 4;
      for (int64_t c = 0; c < job.width; ++c) {
        const int step = (int)codes[c] - key_shift;
        to[c / 4 * kTileColumns * 4 + c % 4] = (int8_t)step;
        sum += step;
      }
    }
    packed.key_offsets[key] =
        -job.query_zero * sum + (int32_t)job.width * job.query_zero * (job.key_zero - key_shift);
  }
  settle_panel(s.scores, packed.keys, key_bytes);
  if (job.level_limits) {
    const int64_t columns = s.value_panels * kTileColumns;
    for (int64_t key = 0; key < s.keys; ++key) {
      const uint8_t* codes = token_codes(job, w, key, 2);
      for (int64_t c = 0; c < columns; ++c)
        packed.value_floats[key * columns + c] =
            c < job.width ? ((float)codes[c] - (float)job.value_zero) * job.value_scale : 0.0f;
    }
    return;
  }
  const int64_t value_bytes = s.value_panels * s.key_groups * kTileColumns * 4;
  memset(packed.values, 0, value_bytes);
  memset(packed.value_offsets, 0, s.value_panels * kTileColumns * 4);
  for (int64_t key = 0; key < s.keys; ++key) {
    const uint8_t* codes = token_codes(job, w, key, 2);
    int8_t* to = packed.values + key / 4 * kTileColumns * 4 + key % 4;
    for (int64_t c = 0; c < job.width; ++c) {
      const int step = (int)codes[c] - value_shift;
      to[(c / kTileColumns * s.key_groups * kTileColumns + c % kTileColumns) * 4] = (int8_t)step;
      packed.value_offsets[c] += step;  // a sum for now
    }
  }
  const int32_t origin = (int32_t)job.map_zero;
  for (int64_t c = 0; c < job.width; ++c)
    packed.value_offsets[c] =
        -origin * packed.value_offsets[c] + (int32_t)s.keys * origin * (job.value_zero - value_shift);
  settle_panel(s.gather, packed.values, value_bytes);
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
  at += in_lines(padded(s.width) * 4);
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
