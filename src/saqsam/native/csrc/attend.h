// One part of a map: the queries of one tile, from their codes to codes of the output. See attention.h.
#pragma once

namespace {

struct Part {
  int rows;
  int64_t y[kMostRows], x[kMostRows];  // of each query within its window
  int32_t sums[kMostRows];             // of its codes
};

// Tokens of a side for which one query stands.
int64_t pool_of(const saqsam_attention_job& job) { return job.pooled ? 2 : 1; }

Part part_of(const saqsam_attention_job& job, const Window& w, int64_t part) {
  const int64_t down = (job.side - w.y < job.window ? job.side - w.y : job.window) / pool_of(job);
  const int64_t across = (job.side - w.x < job.window ? job.side - w.x : job.window) / pool_of(job);
  const int64_t first = part * kTileRows, left = down * across - first;
  Part p;
  p.rows = left < kTileRows ? (int)left : kTileRows;
  for (int r = 0; r < p.rows; ++r) {
    p.y[r] = (first + r) / across;
    p.x[r] = (first + r) % across;
  }
  return p;
}

// Which of the image's queries, and rows of the output, one of a part is.
int64_t query_of(const saqsam_attention_job& job, const Window& w, const Part& part, int r) {
  const int64_t pool = pool_of(job);
  return (w.y / pool + part.y[r]) * (job.side / pool) + w.x / pool + part.x[r];
}

const uint8_t* query_codes(const saqsam_attention_job& job, const Window& w, const Part& part, int r) {
  const uint8_t* codes = job.pooled ? job.pooled : job.codes;
  return codes + query_of(job, w, part, r) * (job.pooled ? job.pooled_stride : job.code_stride) + w.head * job.width;
}

// Scores of a query against the vectors for each row and for each column of keys: one fused sum for each, over
// channels from the first to the last, as the float product of PyTorch adds them.
struct Placed {
  const float *query, *rows, *columns;  // (width), (width, stride) twice
  float *by_row, *by_column;            // (stride)
};

// `kMany` vectors of keys, of two queries side by side, since each sum waits for its last addition.
template <int kMany>
void positions(const Placed (&two)[2], int64_t width, int64_t stride, int64_t at) {
  Wide rows[2][kMany], columns[2][kMany];
  for (int i = 0; i < 2; ++i)
    for (int v = 0; v < kMany; ++v) rows[i][v] = columns[i][v] = Wide::set(0.0f);
  for (int64_t c = 0; c < width; ++c)
    for (int i = 0; i < 2; ++i) {
      const Wide query = Wide::set(two[i].query[c]);
      const int64_t place = c * stride + at;
      for (int v = 0; v < kMany; ++v) {
        rows[i][v] = fused(query, Wide::load(two[i].rows + place + v * Wide::width), rows[i][v]);
        columns[i][v] = fused(query, Wide::load(two[i].columns + place + v * Wide::width), columns[i][v]);
      }
    }
  for (int i = 0; i < 2; ++i)
    for (int v = 0; v < kMany; ++v) {
      rows[i][v].store(two[i].by_row + at + v * Wide::width);
      columns[i][v].store(two[i].by_column + at + v * Wide::width);
    }
}

Placed placed(const saqsam_attention_job& job, const Window& w, const Part& part, const Scratch& s, int r, float* floats) {
  const int64_t size = job.width * job.table_stride;
  const float* query = floats;
  if (job.query_values) {
    query = job.query_values + query_of(job, w, part, r) * job.query_stride + w.head * job.width;
  } else {
    const uint8_t* codes = s.queries + r * padded(job.width);
    for (int64_t c = 0; c < job.width; ++c) floats[c] = ((float)codes[c] - (float)job.query_zero) * job.query_scale;
  }
  return {query, job.table_rows + part.y[r] * size, job.table_columns + part.x[r] * size,
          s.by_row + r * job.table_stride, s.by_column + r * job.table_stride};
}

void prepare_positions(const saqsam_attention_job& job, const Window& w, const Part& part, Scratch& s) {
  for (int r = 0; r < part.rows; r += 2) {
    const int other = r + 1 < part.rows ? r + 1 : r;
    const Placed two[2] = {placed(job, w, part, s, r, s.query), placed(job, w, part, s, other, s.query + padded(job.width))};
    int64_t at = 0;
    for (; at + 2 * Wide::width <= job.table_stride; at += 2 * Wide::width) positions<2>(two, job.width, job.table_stride, at);
    for (; at < job.table_stride; at += Wide::width) positions<1>(two, job.width, job.table_stride, at);
  }
  if (job.window % kTileColumns == 0) return;
  for (int r = 0; r < part.rows; ++r) {
    const float *by_row = s.by_row + r * job.table_stride, *by_column = s.by_column + r * job.table_stride;
    float* bias = s.bias + r * s.score_stride;  // each row of keys overwrites what the one before wrote too far
    for (int64_t y = 0; y < job.window; ++y)
      for (int64_t x = 0; x < job.window; x += Wide::width)
        (Wide::set(by_row[y]) + Wide::load(by_column + x)).store(bias + y * job.window + x);
  }
}

void prepare_queries(const saqsam_attention_job& job, const Window& w, Part& part, Scratch& s) {
  const int64_t stride = padded(job.width);
  for (int r = 0; r < part.rows; ++r) {
    uint8_t* to = s.queries + r * stride;
    memcpy(to, query_codes(job, w, part, r), job.width);
    memset(to + job.width, 0, stride - job.width);
    part.sums[r] = sum_of(to, job.width);
  }
  if (job.table_rows) prepare_positions(job, w, part, s);
}

// scale * query . key, plus relative positions, for all keys.
void scores_of(const saqsam_attention_job& job, const Shape& shape, const Packed& packed, const Part& part,
               Scratch& s) {
  const int64_t stride = padded(job.width), panel = shape.groups * kTileColumns * 4 * bytes_of(shape.scores);
  const int32_t zero = job.key_zero - shift_of(job.key_zero, job.key_top);
  const void* codes = s.queries;
  if (shape.scores == kWords) {
    widen(s.queries, s.words, part.rows * stride);
    codes = s.words;
  }
  const Tile tile = tile_of(shape.scores, part.rows);
  const bool in_registers = job.table_rows && job.window % kTileColumns == 0;
  const Wide scale = Wide::set(job.score_scale);
  int32_t sums[kMostRows * kMostColumns];
  for (int64_t p = 0; p < shape.key_panels; ++p) {
    tile(codes, stride * bytes_of(shape.scores), packed.keys + p * panel, shape.groups, sums);
    const int64_t key = p * kTileColumns, y = in_registers ? key / job.window : 0, x = in_registers ? key % job.window : 0;
    for (int r = 0; r < part.rows; ++r) {
      const int32_t minus = zero * part.sums[r];
      float* row = s.scores + r * s.score_stride + key;
      const float* bias = s.bias + r * s.score_stride + key;
      const float* by_column = s.by_column + r * job.table_stride + x;
      const Wide by_row = Wide::set(in_registers ? s.by_row[r * job.table_stride + y] : 0.0f);
      for (int c = 0; c < kTileColumns; c += Wide::width) {
        Wide score = Wide::load_sums(sums + r * kTileColumns + c, packed.key_offsets + key + c, minus) * scale;
        if (job.table_rows) score = score + (in_registers ? by_row + Wide::load(by_column + c) : Wide::load(bias + c));
        score.store(row + c);
      }
    }
  }
}

// Codes of the map's rows, zero beyond the last key.
void map_codes(const saqsam_attention_job& job, const Shape& shape, const Part& part, Scratch& s, int32_t* sums) {
  const Grid grid = {job.map_scale, 1.0f / job.map_scale, job.map_zero, job.map_top};
  for (int r = 0; r < part.rows; ++r) {
    float* row = s.scores + r * s.score_stride;
    uint8_t* codes = s.codes + r * s.code_stride;
    const float factor = exponentials(row, shape.keys, job.lanes);
    for (int64_t i = 0; i < shape.keys; i += Wide::width)
      codes_of(Wide::load(row + i) * Wide::set(factor), grid).store_bytes(codes + i);
    memset(codes + shape.keys, 0, s.code_stride - shape.keys);
    row_sums(codes, 0, 1, shape.keys, &sums[r]);
  }
}

// The map on a logarithmic grid, as floats. Within an eighth of an octave lies one limit between two levels at
// most, so a value's first bits name the two levels, and one comparison chooses.
void map_levels(const saqsam_attention_job& job, const Shape& shape, const Part& part, Scratch& s) {
  for (int r = 0; r < part.rows; ++r) {
    float* row = s.scores + r * s.score_stride;
    const float factor = exponentials(row, shape.keys, job.lanes);
    for (int64_t i = 0; i < shape.keys; i += Lanes8::width) {  // what is beyond the last key is not read again
      const Lanes8 x = Lanes8::load(row + i) * Lanes8::set(factor);
      const Lanes8 high = looked_up(job.level_high, x), low = looked_up(job.level_low, x);
      where_above(x, looked_up(job.level_limits, x), high, low).store(row + i);
    }
  }
}

void store_output(const saqsam_attention_job& job, const Window& w, const Part& part, int r, int64_t column,
                  Wide value, const Grid& grid) {
  uint8_t* to = job.out + query_of(job, w, part, r) * job.out_stride + w.head * job.width + column;
  if (column < job.width) store_codes(codes_of(value, grid), to, job.width - column);
}

void gather_codes(const saqsam_attention_job& job, const Shape& shape, const Packed& packed, const Window& w,
                  const Part& part, Scratch& s, const int32_t* map_sums, const Grid& grid) {
  const int64_t panel = shape.key_groups * kTileColumns * 4 * bytes_of(shape.gather);
  const int32_t zero = job.value_zero - shift_of(job.value_zero, job.value_top);
  const void* codes = s.codes;
  if (shape.gather == kWords) {
    widen(s.codes, s.words, part.rows * s.code_stride);
    codes = s.words;
  }
  const Tile tile = tile_of(shape.gather, part.rows);
  int32_t sums[kMostRows * kMostColumns];
  for (int64_t p = 0; p < shape.value_panels; ++p) {
    tile(codes, s.code_stride * bytes_of(shape.gather), packed.values + p * panel, shape.key_groups, sums);
    for (int r = 0; r < part.rows; ++r)
      for (int c = 0; c < kTileColumns; c += Wide::width) {
        const int64_t column = p * kTileColumns + c;
        const Wide value = Wide::load_sums(sums + r * kTileColumns + c, packed.value_offsets + column,
                                           zero * map_sums[r]) *
                           Wide::set(job.output_scale);
        store_output(job, w, part, r, column, value, grid);
      }
  }
}

// Sums of float levels times float values: four queries and two vectors of channels at a time.
void gather_levels(const saqsam_attention_job& job, const Shape& shape, const Packed& packed, const Window& w,
                   const Part& part, Scratch& s, const Grid& grid) {
  const int64_t columns = shape.value_panels * kTileColumns;
  for (int first = 0; first < part.rows; first += 4) {
    const float* rows[4];
    for (int i = 0; i < 4; ++i)
      rows[i] = s.scores + (first + i < part.rows ? first + i : first) * s.score_stride;
    for (int64_t c = 0; c < columns; c += 2 * Wide::width) {
      Wide sums[4][2];
      for (int i = 0; i < 4; ++i) sums[i][0] = sums[i][1] = Wide::set(0.0f);
      for (int64_t key = 0; key < shape.keys; ++key) {
        const float* values = packed.value_floats + key * columns + c;
        const Wide left = Wide::load(values), right = Wide::load(values + Wide::width);
        for (int i = 0; i < 4; ++i) {
          const Wide level = Wide::set(rows[i][key]);
          sums[i][0] = fused(level, left, sums[i][0]);
          sums[i][1] = fused(level, right, sums[i][1]);
        }
      }
      for (int i = 0; i < 4 && first + i < part.rows; ++i)
        for (int j = 0; j < 2; ++j)
          store_output(job, w, part, first + i, c + j * Wide::width, sums[i][j], grid);
    }
  }
}

void attend(const saqsam_attention_job& job, int64_t map, int64_t index, const void* packed_map, void* base) {
  const Shape shape = shape_of(job);
  Packed packed;
  lay_out(job, shape, const_cast<void*>(packed_map), &packed);
  Scratch scratch;
  lay_scratch(job, shape, base, &scratch);
  const Window w = window_of(job, map);
  Part part = part_of(job, w, index);
  const Grid grid = {job.out_scale, 1.0f / job.out_scale, job.out_zero, job.out_top};
  prepare_queries(job, w, part, scratch);
  scores_of(job, shape, packed, part, scratch);
  if (job.level_limits) {
    map_levels(job, shape, part, scratch);
    gather_levels(job, shape, packed, w, part, scratch, grid);
    return;
  }
  int32_t sums[kMostRows];
  map_codes(job, shape, part, scratch, sums);
  gather_codes(job, shape, packed, w, part, scratch, sums, grid);
}

}  // namespace
