// The float steps of linear layers and of layer norm, for the level that includes this.
#pragma once
#include "floats.h"
#include "level.h"

namespace {

void row_sums(const uint8_t* codes, int64_t stride, int64_t rows, int64_t inner, int32_t* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    int32_t sum = 0;
    for (int64_t i = 0; i < inner; ++i) sum += codes[row * stride + i];
    sums[row] = sum;
  }
}

// Sums of one tile become values, and values what the job asks for.
void finish(const saqsam_linear_job& job, const int32_t* sums, const int32_t* row_sums, int64_t first, int rows,
            int64_t column) {
  const int columns = kTileColumns;
  for (int64_t c = column; c < column + columns && c < job.columns; c += Wide::width) {
    const int count = job.columns - c < Wide::width ? (int)(job.columns - c) : Wide::width;
    const Wide scale = Wide::load(job.scale + c), bias = Wide::load(job.bias + c);
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r;
      const int32_t* from = sums + r * columns + (c - column);
      Wide v = row_sums[r] ? Wide::load_sums(from, job.offset + c, job.zero + c, row_sums[r])
                           : Wide::load_sums(from, job.offset + c, 0);  // where no column has a zero, too
      v = v * scale + bias;
      if (job.gelu) v = gelu(v);
      if (job.values && c < job.value_columns) {
        const int kept = job.value_columns - c < count ? (int)(job.value_columns - c) : count;
        const int64_t place = row * job.value_stride + c;
        Wide sum = v;
        if (job.residual && kept == Wide::width) sum = Wide::load(job.residual + place) + v;
        else if (job.residual) sum = load_part<Wide>(job.residual + place, kept, 0.0f) + v;
        if (kept == Wide::width) sum.store(job.values + place);
        else store_part(sum, job.values + place, kept);
      }
      if (job.out) {
        Wide codes = codes_of(v, Wide::load(job.grid_scale + c), Wide::load(job.grid_inverse + c),
                              Wide::load(job.grid_zero + c), Wide::load(job.grid_top + c));
        uint8_t* to = job.out + row * job.out_stride + c;
        if (count == Wide::width) codes.store_bytes(to);
        else store_bytes_part(codes, to, count);
      }
    }
  }
}

void norm(const saqsam_norm_job& job, int64_t row, float* scratch) {
  const float* x = job.x + row * job.x_stride;
  float* values = job.values ? job.values + row * job.value_stride : scratch;
  if (job.lanes == 8) normalize<Lanes8>(x, job.inner, job.weight, job.bias, job.epsilon, values);
  else normalize<Lanes4>(x, job.inner, job.weight, job.bias, job.epsilon, values);
  if (!job.out) return;
  const Grid grid = {job.scale, 1.0f / job.scale, job.zero, job.top};
  uint8_t* out = job.out + row * job.out_stride;
  int64_t i = 0;
  for (; i + Wide::width <= job.inner; i += Wide::width) codes_of(Wide::load(values + i), grid).store_bytes(out + i);
  if (i < job.inner) {
    const int count = (int)(job.inner - i);
    store_bytes_part(codes_of(load_part<Wide>(values + i, count, 0.0f), grid), out + i, count);
  }
}

}  // namespace
