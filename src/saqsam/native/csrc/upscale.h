// Image tokens to masks in float, a few tokens at a time and nothing of the size of the image held between the
// steps; and rows that are normed and rounded for several layers. For the level that includes this.
#pragma once
#include "steps.h"

namespace {

const int kFloatColumns = 2 * Wide::width;
const int64_t kUpscaled = 2 * kTileRows;  // tokens at a time

// (R, kFloatColumns) sums of floats (R, inner) times a panel (inner, kFloatColumns), plus a bias for each column.
template <int R>
void float_tile(const float* x, int64_t stride, const float* panel, int64_t inner, const float* bias, float* out,
                int64_t out_stride) {
  Wide sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    sums[r][0] = Wide::load(bias);
    sums[r][1] = Wide::load(bias + Wide::width);
  }
  for (int64_t k = 0; k < inner; ++k) {
    const Wide left = Wide::load(panel + k * kFloatColumns), right = Wide::load(panel + k * kFloatColumns + Wide::width);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Wide value = Wide::set(x[r * stride + k]);
      sums[r][0] = fused(value, left, sums[r][0]);
      sums[r][1] = fused(value, right, sums[r][1]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    sums[r][0].store(out + r * out_stride);
    sums[r][1].store(out + r * out_stride + Wide::width);
  }
}

// A float matrix in panels times rows, all columns.
void float_product(const float* x, int64_t stride, int64_t rows, const float* panels, int64_t inner, int64_t columns,
                   const float* bias, float* out, int64_t out_stride) {
  for (int64_t c = 0; c < columns; c += kFloatColumns) {
    const float* panel = panels + c * inner;
    int64_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows)
      float_tile<kTileRows>(x + r * stride, stride, panel, inner, bias + c, out + r * out_stride + c, out_stride);
    for (; r < rows; ++r)
      float_tile<1>(x + r * stride, stride, panel, inner, bias + c, out + r * out_stride + c, out_stride);
  }
}

int64_t float_padded(int64_t columns) { return (columns + 31) / 32 * 32; }

struct UpscaleScratch {
  float *first, *normed, *second;
};
int64_t lay_upscale(const saqsam_upscale_job& job, void* base, UpscaleScratch* s) {
  char* at = (char*)base;
  s->first = (float*)at;
  at += in_lines(kUpscaled * float_padded(4 * job.first) * 4);
  s->normed = (float*)at;
  at += in_lines((kUpscaled * 4 * job.first + Wide::width) * 4);
  s->second = (float*)at;
  at += in_lines(kUpscaled * 4 * float_padded(4 * job.second) * 4);
  return at - (char*)base;
}
int64_t upscale_scratch(const saqsam_upscale_job& job) {
  UpscaleScratch s;
  return lay_upscale(job, nullptr, &s);
}

void gelu_all(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += Wide::width) gelu(Wide::load(x + i)).store(x + i);
}

// Products of the last features of one quarter of a token, (channels, 4 places), with a mask's vector: 2x2 pixels.
void draw(const float* features, const float* vector, int64_t columns, float* out, int64_t row) {
  Wide sum = Wide::set(0.0f);
  for (int64_t i = 0; i < columns; i += Wide::width) sum = fused(Wide::load(features + i), Wide::load(vector + i), sum);
  float lanes[Wide::width];
  sum.store(lanes);
  for (int place = 0; place < 4; ++place) {
    float pixel = 0.0f;
    for (int i = place; i < Wide::width; i += 4) pixel += lanes[i];
    out[place / 2 * row + place % 2] = pixel;
  }
}

void upscale(const saqsam_upscale_job& job, int64_t begin, int64_t rows, void* base) {
  UpscaleScratch s;
  lay_upscale(job, base, &s);
  const int64_t tokens = job.side * job.side, wide = float_padded(4 * job.first), last = float_padded(4 * job.second);
  const int64_t used = (4 * job.second + kFloatColumns - 1) / kFloatColumns * kFloatColumns;
  for (int64_t at = begin; at < begin + rows; at += kUpscaled) {
    const int64_t count = begin + rows - at < kUpscaled ? begin + rows - at : kUpscaled;
    float_product(job.x + at * job.inner, job.inner, count, job.first_weight, job.inner, 4 * job.first,
                  job.first_bias, s.first, wide);
    for (int64_t q = 0; q < 4 * count; ++q)
      normalize<Lanes8>(s.first + q / 4 * wide + q % 4 * job.first, job.first, job.norm_weight, job.norm_bias,
                        job.epsilon, s.normed + q * job.first);
    gelu_all(s.normed, 4 * count * job.first);
    float_product(s.normed, job.first, 4 * count, job.second_weight, job.first, 4 * job.second, job.second_bias,
                  s.second, last);
    for (int64_t q = 0; q < 4 * count; ++q) gelu_all(s.second + q * last, used);
    for (int64_t q = 0; q < 4 * count; ++q) {
      const int64_t row = at + q / 4, prompt = row / tokens, token = row % tokens;
      const int64_t y = token / job.side * 4 + q % 4 / 2 * 2, x = token % job.side * 4 + q % 2 * 2;
      for (int64_t mask = prompt * job.masks; mask < (prompt + 1) * job.masks; ++mask)
        draw(s.second + q * last, job.vectors + mask * last, used,
             job.out + (mask * 4 * job.side + y) * 4 * job.side + x, 4 * job.side);
    }
  }
}

int64_t settle_scratch(const saqsam_settle_job& job) { return 2 * in_lines((job.inner + Wide::width) * 4); }

void round_row(const float* x, const float* position, int64_t count, const saqsam_rounding& to, int64_t row) {
  const Grid grid = {to.scale, 1.0f / to.scale, to.zero, to.top};
  uint8_t* out = to.out + row * to.stride;
  int64_t i = 0;
  for (; i + Wide::width <= count; i += Wide::width) {
    const Wide v = Wide::load(x + i);
    codes_of(to.with_positions ? v + Wide::load(position + i) : v, grid).store_bytes(out + i);
  }
  if (i == count) return;
  const int left = (int)(count - i);
  const Wide v = load_part<Wide>(x + i, left, 0.0f);
  const Wide moved = to.with_positions ? v + load_part<Wide>(position + i, left, 0.0f) : v;
  store_bytes_part(codes_of(moved, grid), out + i, left);
}

void settle(const saqsam_settle_job& job, int64_t first, int64_t rows, void* base) {
  float *sum = (float*)base, *normed = (float*)((char*)base + in_lines((job.inner + Wide::width) * 4));
  for (int64_t row = first; row < first + rows; ++row) {
    const float* x = job.x + row * job.inner;
    if (job.residual) {
      const float* more = job.residual + row % job.residual_rows * job.inner;
      for (int64_t i = 0; i < job.inner; ++i) sum[i] = x[i] + more[i];
      x = sum;
    }
    if (job.weight) {
      normalize<Lanes8>(x, job.inner, job.weight, job.bias, job.epsilon, normed);
      x = normed;
    }
    if (job.values && job.values + row * job.inner != x)
      memcpy(job.values + row * job.inner, x, job.inner * 4);
    const float* position = job.positions ? job.positions + row % job.position_rows * job.inner : nullptr;
    for (int32_t i = 0; i < job.outputs; ++i) round_row(x, position, job.inner, job.rounding[i], row);
  }
}

}  // namespace
