// Image tokens to masks in float, a few tokens at a time and nothing of the size of the image held between the
// steps, for the level that includes this.
#pragma once
#include "steps.h"

namespace {

const int kFloatColumns = 2 * Wide::width;
const int kFloatRows = kTileRows < 12 ? kTileRows : 12;
const int64_t kUpscaled = 2 * kFloatRows;  // tokens at a time

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
    for (; r + kFloatRows <= rows; r += kFloatRows)
      float_tile<kFloatRows>(x + r * stride, stride, panel, inner, bias + c, out + r * out_stride + c, out_stride);
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
  for (int64_t i = 0; i < count; i += Wide::width) near_gelu(Wide::load(x + i)).store(x + i);
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

float sum_of(const float* x, int64_t count) {
  Wide sum = Wide::set(0.0f);
  int64_t i = 0;
  for (; i + Wide::width <= count; i += Wide::width) sum = sum + Wide::load(x + i);
  if (i < count) sum = sum + load_part<Wide>(x + i, (int)(count - i), 0.0f);
  float lanes[Wide::width];
  sum.store(lanes);
  for (int half = Wide::width / 2; half; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

// Layer norm of one quarter of a token. No code hangs on it, so it adds up as is fastest.
void norm_quarter(const saqsam_upscale_job& job, const float* x, float* out) {
  const int64_t n = job.first;
  const float mean = sum_of(x, n) / (float)n;
  for (int64_t i = 0; i < n; ++i) out[i] = (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / __builtin_sqrtf(sum_of(out, n) / (float)n + job.epsilon);
  for (int64_t i = 0; i < n; ++i) out[i] = (x[i] - mean) * factor * job.norm_weight[i] + job.norm_bias[i];
}

// Features of the image, `count` for each quarter of a token, added to those of quarters that begin at row `at`.
void add_features(const float* features, int64_t count, int64_t at, int64_t quarters, int64_t tokens, float* x,
                  int64_t stride) {
  for (int64_t q = 0; q < quarters; ++q) {
    const float* from = features + ((at + q / 4) % tokens * 4 + q % 4) * count;
    float* to = x + q * stride;
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
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
    if (job.first_features)
      for (int64_t t = 0; t < count; ++t)
        add_features(job.first_features, job.first, at + t, 4, tokens, s.first + t * wide, job.first);
    for (int64_t q = 0; q < 4 * count; ++q)
      norm_quarter(job, s.first + q / 4 * wide + q % 4 * job.first, s.normed + q * job.first);
    gelu_all(s.normed, 4 * count * job.first);
    float_product(s.normed, job.first, 4 * count, job.second_weight, job.first, 4 * job.second, job.second_bias,
                  s.second, last);
    if (job.second_features)
      add_features(job.second_features, 4 * job.second, at, 4 * count, tokens, s.second, last);
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

}  // namespace
