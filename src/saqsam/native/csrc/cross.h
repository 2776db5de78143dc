// Attention between an image and the few tokens of a prompt, in both directions, for the level that includes this.
//
// The scores of all heads are one product: rows are the image's codes, as they lie; columns are the tokens' steps, a
// column for each token and head, zero outside that head's channels. So a vector holds one token and several
// heads, and whether softmax runs along the tokens or along the image, each lane is a map of its own. One more
// column for each head adds up the image's codes, for tokens whose zero does not fit a signed byte.
#pragma once
#include "attention.h"

namespace {

const int64_t kCrossRows = 96;  // of the image whose scores are made together

struct Crossing {  // sizes that follow from a job
  int64_t lanes, columns, stride, panels, inner, panel, channels;  // panel: bytes; channels: of a head, padded
  int shift;
  Kind kind;
};

Crossing crossing_of(const saqsam_cross_job& job) {
  Crossing s;
  s.lanes = (job.heads + 7) / 8 * 8;
  s.columns = job.tokens * s.lanes;
  s.panels = (s.columns + s.lanes + kTileColumns - 1) / kTileColumns;
  s.stride = s.panels * kTileColumns;
  s.inner = padded(job.heads * job.width);
  s.shift = shift_of(job.token_zero, job.token_top);
  const int below = job.token_zero, above = job.token_top - job.token_zero;
  s.kind = kind_of(job.image_top, job.token_top < 128 ? (below > above ? below : above) : 128);
  s.panel = s.inner * kTileColumns * bytes_of(s.kind);
  s.channels = (job.width + Wide::width - 1) / Wide::width * Wide::width;
  return s;
}

struct CrossScratch {
  int8_t* panels;
  int16_t* words;  // of the image's codes
  int32_t *offsets, *sums;
  float *values;        // of the tokens, or sums of the image's values: (tokens, heads, channels)
  float *row, *most, *total;  // scores of a row; by column: the largest one, and sums of exponentials
  float* scores;        // (image, stride), where tokens ask
};

int64_t lay_crossing(const saqsam_cross_job& job, const Crossing& s, bool tokens_ask, void* base, CrossScratch* c) {
  char* at = (char*)base;
  const int lanes = 16;
  c->panels = (int8_t*)at;
  at += in_lines(s.panels * s.panel);
  c->words = (int16_t*)at;
  at += s.kind == kWords ? in_lines(kTileRows * s.inner * 2) : 0;
  c->offsets = (int32_t*)at;
  at += in_lines(s.stride * 4);
  c->sums = (int32_t*)at;
  at += in_lines(s.panels * kTileRows * kTileColumns * 4);
  c->values = (float*)at;
  at += in_lines(job.tokens * job.heads * s.channels * 4);
  c->row = (float*)at;
  at += in_lines(s.stride * 4);
  c->most = (float*)at;
  at += in_lines(s.stride * 4);
  c->total = (float*)at;
  at += in_lines(lanes * s.columns * 4);
  c->scores = (float*)at;
  at += tokens_ask ? in_lines(job.image * s.stride * 4) : 0;
  return at - (char*)base;
}

// The tokens' steps of one prompt as panels, and what is added to each column.
void pack_tokens(const saqsam_cross_job& job, const Crossing& s, int64_t prompt, CrossScratch& c) {
  const int64_t bytes = s.inner * kTileColumns;
  const int32_t rest = job.token_zero - s.shift;
  memset(c.panels, 0, s.panels * s.panel);
  memset(c.offsets, 0, s.stride * 4);
  for (int64_t t = 0; t <= job.tokens; ++t)  // the last one adds up
    for (int64_t h = 0; h < job.heads; ++h) {
      const int64_t token = prompt * job.tokens + (t < job.tokens ? t : 0), n = t * s.lanes + h;
      const uint8_t* codes = job.token_codes + token * job.token_stride + h * job.width;
      int8_t* panel = c.panels + n / kTileColumns * bytes;
      int32_t sum = 0;
      for (int64_t i = 0; i < job.width; ++i) {
        const int64_t k = h * job.width + i;
        const int step = t == job.tokens ? 1 : (int)codes[i] - s.shift;
        panel[(k / 4 * kTileColumns + n % kTileColumns) * 4 + k % 4] = (int8_t)step;
        sum += step;
      }
      if (t < job.tokens) c.offsets[n] = job.image_zero * ((int32_t)job.width * rest - sum);
    }
  settle_panel(s.kind, c.panels, s.panels * bytes);
}

// Sums of one tile of image rows with all columns, panel by panel.
void cross_sums(const saqsam_cross_job& job, const Crossing& s, int64_t row, int rows, CrossScratch& c) {
  const uint8_t* codes = job.image_codes + row * job.image_stride;
  const void* left = codes;
  int64_t stride = job.image_stride;
  if (s.kind == kWords) {
    for (int r = 0; r < rows; ++r) widen(codes + r * job.image_stride, c.words + r * s.inner, s.inner);
    left = c.words;
    stride = 2 * s.inner;
  }
  const Tile tile = tile_of(s.kind, rows);
  for (int64_t p = 0; p < s.panels; ++p)
    tile(left, stride, c.panels + p * s.panel, s.inner / 4, c.sums + p * kTileRows * kTileColumns);
}

// Scores of row r of a tile, a column each, into `row`.
void cross_scores(const saqsam_cross_job& job, const Crossing& s, const CrossScratch& c, int r, float* row) {
  const int32_t rest = job.token_zero - s.shift;
  const Lanes8 scale = Lanes8::set(job.score_scale);
  const int32_t* sums = c.sums + r * kTileColumns;
  const int64_t panel = kTileRows * kTileColumns;
  for (int64_t h = 0; h < s.lanes; h += 8) {
    const int64_t last = s.columns + h;
    const int32_t* codes = sums + last / kTileColumns * panel + last % kTileColumns;
    for (int64_t n = h; n < s.columns; n += s.lanes) {
      const int32_t* from = sums + n / kTileColumns * panel + n % kTileColumns;
      (Lanes8::load_sums(from, c.offsets + n, codes, rest) * scale).store(row + n);
    }
  }
}

// Whole steps of the map, or its levels, of eight probabilities.
void map_steps(const saqsam_cross_job& job, const Grid& grid, Lanes8 x, float* to) {
  if (!job.level_limits) {
    (codes_of(x, grid) - Lanes8::set(grid.zero)).store(to);
    return;
  }
  const Lanes8 limit = looked_up(job.level_limits, x);  // see map_levels
  where_above(x, limit, looked_up(job.level_high, x), looked_up(job.level_low, x)).store(to);
}

// Adds up exponentials, count of them, as PyTorch does: as many sums side by side as its vectors have lanes, or one
// after the other where they are fewer; then each sum's half onto the other.
int64_t sums_side_by_side(int64_t count, int32_t lanes) { return count < lanes ? 1 : lanes; }
Lanes8 added_up(const float* totals, int64_t stride, int64_t lanes) {
  Lanes8 sums[16];
  for (int64_t i = 0; i < lanes; ++i) sums[i] = Lanes8::load(totals + i * stride);
  for (int64_t half = lanes / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
  return sums[0];
}

// Softmax along the tokens, then steps of the map, in place.
void row_map(const saqsam_cross_job& job, const Crossing& s, const Grid& grid, float* row, float* totals) {
  const int64_t lanes = sums_side_by_side(job.tokens, job.lanes);
  for (int64_t h = 0; h < s.lanes; h += 8) {
    Lanes8 most = Lanes8::load(row + h);
    for (int64_t n = h + s.lanes; n < s.columns; n += s.lanes) most = larger(Lanes8::load(row + n), most);
    for (int64_t t = 0; t < job.tokens; ++t) {
      const Lanes8 e = exponential(Lanes8::load(row + t * s.lanes + h) - most);
      e.store(row + t * s.lanes + h);
      float* total = totals + t % lanes * 8;
      (t < lanes ? e : Lanes8::load(total) + e).store(total);
    }
    const Lanes8 factor = Lanes8::set(1.0f) / added_up(totals, 8, lanes);
    for (int64_t n = h; n < s.columns; n += s.lanes)
      map_steps(job, grid, Lanes8::load(row + n) * factor, row + n);
  }
}

int64_t image_asks_scratch(const saqsam_cross_job& job) {
  CrossScratch c;
  return lay_crossing(job, crossing_of(job), false, nullptr, &c);
}

void image_asks(const saqsam_cross_job& job, int64_t first, int64_t rows, void* base) {
  const Crossing s = crossing_of(job);
  CrossScratch c;
  lay_crossing(job, s, false, base, &c);
  const int64_t prompt = first / job.image;
  pack_tokens(job, s, prompt, c);
  for (int64_t t = 0; t < job.tokens; ++t)
    for (int64_t h = 0; h < job.heads; ++h) {
      const uint8_t* codes = job.values + (prompt * job.tokens + t) * job.value_stride + h * job.width;
      float* to = c.values + (t * job.heads + h) * s.channels;
      for (int64_t i = 0; i < s.channels; ++i)
        to[i] = i < job.width ? ((float)codes[i] - job.value_zero) * job.value_factor : 0.0f;
    }
  const Grid map = {job.map_scale, 1.0f / job.map_scale, job.map_zero, job.map_top};
  const Grid grid = {job.out_scale, 1.0f / job.out_scale, job.out_zero, job.out_top};
  const Wide scale = Wide::set(job.output_scale);
  const int64_t step = job.heads * s.channels;
  for (int64_t at = 0; at < rows; at += kTileRows) {
    const int count = rows - at < kTileRows ? (int)(rows - at) : kTileRows;
    cross_sums(job, s, (first + at) % job.image_rows, count, c);
    for (int r = 0; r < count; ++r) {
      cross_scores(job, s, c, r, c.row);
      row_map(job, s, map, c.row, c.total);
      uint8_t* out = job.out + (first + at + r) * job.out_stride;
      for (int64_t h = 0; h < job.heads; ++h)
        for (int64_t i = 0; i < job.width; i += Wide::width) {
          const float* values = c.values + h * s.channels + i;
          Wide sum = Wide::set(0.0f);
          for (int64_t t = 0; t < job.tokens; ++t)
            sum = fused(Wide::set(c.row[t * s.lanes + h]), Wide::load(values + t * step), sum);
          store_codes(codes_of(sum * scale, grid), out + h * job.width + i, job.width - i);
        }
    }
  }
}

int64_t tokens_ask_scratch(const saqsam_cross_job& job) {
  CrossScratch c;
  return lay_crossing(job, crossing_of(job), true, nullptr, &c);
}

// Scores of all of the image, and the largest of each column.
void all_scores(const saqsam_cross_job& job, const Crossing& s, int64_t first, CrossScratch& c) {
  for (int64_t at = 0; at < job.image; at += kTileRows) {
    const int count = job.image - at < kTileRows ? (int)(job.image - at) : kTileRows;
    cross_sums(job, s, first + at, count, c);
    for (int r = 0; r < count; ++r) {
      float* row = c.scores + (at + r) * s.stride;
      cross_scores(job, s, c, r, row);
      for (int64_t n = 0; n < s.columns; n += 8) {
        const Lanes8 score = Lanes8::load(row + n);
        (at + r ? larger(score, Lanes8::load(c.most + n)) : score).store(c.most + n);
      }
    }
  }
}

// Sums of map steps times values of rows `first` to `last` of the image, added to c.values.
void gather_rows(const saqsam_cross_job& job, const Crossing& s, const uint8_t* values, int64_t first, int64_t last,
                 CrossScratch& c) {
  const int many = 8;
  const int64_t step = job.heads * s.channels;
  const Wide zero = Wide::set(job.value_zero), factor = Wide::set(job.value_factor);
  for (int64_t h = 0; h < job.heads; ++h)
    for (int64_t i = 0; i < job.width; i += Wide::width)
      for (int64_t t = 0; t < job.tokens; t += many) {
        float* sums[many];
        int64_t column[many];
        Wide sum[many];
        for (int j = 0; j < many; ++j) {
          const int64_t token = t + j < job.tokens ? t + j : t;
          sums[j] = c.values + token * step + h * s.channels + i;
          column[j] = token * s.lanes + h;
          sum[j] = Wide::load(sums[j]);
        }
        for (int64_t row = first; row < last; ++row) {
          const Wide value = (Wide::load_bytes(values + row * job.value_stride + h * job.width + i) - zero) * factor;
          const float* steps = c.scores + row * s.stride;
#pragma GCC unroll 8
          for (int j = 0; j < many; ++j) sum[j] = fused(Wide::set(steps[column[j]]), value, sum[j]);
        }
        for (int j = 0; j < many && t + j < job.tokens; ++j) sum[j].store(sums[j]);
      }
}

void tokens_ask(const saqsam_cross_job& job, int64_t prompt, void* base) {
  const Crossing s = crossing_of(job);
  CrossScratch c;
  lay_crossing(job, s, true, base, &c);
  const int64_t first = prompt * job.image % job.image_rows, lanes = sums_side_by_side(job.image, job.lanes);
  pack_tokens(job, s, prompt, c);
  all_scores(job, s, first, c);
  for (int64_t row = 0; row < job.image; ++row) {
    float *scores = c.scores + row * s.stride, *totals = c.total + row % lanes * s.columns;
    for (int64_t n = 0; n < s.columns; n += 8) {
      const Lanes8 e = exponential(Lanes8::load(scores + n) - Lanes8::load(c.most + n));
      e.store(scores + n);
      (row < lanes ? e : Lanes8::load(totals + n) + e).store(totals + n);
    }
  }
  for (int64_t n = 0; n < s.columns; n += 8)  // `most` is not asked any more
    (Lanes8::set(1.0f) / added_up(c.total + n, s.columns, lanes)).store(c.most + n);
  const Grid map = {job.map_scale, 1.0f / job.map_scale, job.map_zero, job.map_top};
  const Grid grid = {job.out_scale, 1.0f / job.out_scale, job.out_zero, job.out_top};
  memset(c.values, 0, job.tokens * job.heads * s.channels * 4);
  const uint8_t* values = job.values + first * job.value_stride;
  for (int64_t row = 0; row < job.image; row += kCrossRows) {
    const int64_t last = row + kCrossRows < job.image ? row + kCrossRows : job.image;
    for (int64_t r = row; r < last; ++r) {
      float* scores = c.scores + r * s.stride;
      for (int64_t n = 0; n < s.columns; n += 8)
        map_steps(job, map, Lanes8::load(scores + n) * Lanes8::load(c.most + n), scores + n);
    }
    gather_rows(job, s, values, row, last, c);
  }
  const Wide scale = Wide::set(job.output_scale);
  for (int64_t t = 0; t < job.tokens; ++t)
    for (int64_t h = 0; h < job.heads; ++h)
      for (int64_t i = 0; i < job.width; i += Wide::width) {
        const Wide sum = Wide::load(c.values + (t * job.heads + h) * s.channels + i);
        uint8_t* out = job.out + (prompt * job.tokens + t) * job.out_stride + h * job.width + i;
        store_codes(codes_of(sum * scale, grid), out, job.width - i);
      }
}

}  // namespace
