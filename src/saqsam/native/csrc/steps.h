// The float steps of linear layers and of layer norm, for the level that includes this.
#pragma once
#include "floats.h"
#include "level.h"

namespace {

inline int32_t sum_of(const uint8_t* codes, int64_t count) {
  int64_t i = 0;
  int32_t sum = 0;
#if defined(__AVX2__)
  __m256i sums = _mm256_setzero_si256();
  for (; i + 32 <= count; i += 32)
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_loadu_si256((const __m256i*)(codes + i)), _mm256_setzero_si256()));
  alignas(32) int64_t four[4];
  _mm256_store_si256((__m256i*)four, sums);
  sum = (int32_t)(four[0] + four[1] + four[2] + four[3]);
#endif
  for (; i < count; ++i) sum += codes[i];
  return sum;
}

void row_sums(const uint8_t* codes, int64_t stride, int64_t rows, int64_t inner, int32_t* sums) {
  for (int64_t row = 0; row < rows; ++row) sums[row] = sum_of(codes + row * stride, inner);
}

// As many of a vector's codes as are asked for, or all of them.
void store_codes(Wide codes, uint8_t* to, int64_t count) {
  if (count >= Wide::width) codes.store_bytes(to);
  else store_bytes_part(codes, to, (int)count);
}

// A vector of sums becomes values, and values what the job asks for, of columns that fill no vector.
void finish_part(const saqsam_linear_job& job, const int32_t* sums, const int32_t* row_sums, int64_t first, int rows,
                 int64_t c, int count) {
  const Wide scale = Wide::load(job.scale + c), bias = Wide::load(job.bias + c);
  for (int r = 0; r < rows; ++r, sums += kTileColumns) {
    const int64_t row = first + r;
    Wide v = Wide::load_sums(sums, job.offset + c, job.zero + c, row_sums[r]) * scale + bias;
    if (job.gelu) v = gelu(v);
    if (job.values && c < job.value_columns) {
      const int kept = job.value_columns - c < count ? (int)(job.value_columns - c) : count;
      const int64_t place = row * job.value_stride + c;
      store_part(job.residual ? load_part<Wide>(job.residual + place, kept, 0.0f) + v : v, job.values + place, kept);
    }
    if (job.out) {
      const Wide codes = codes_of(v, Wide::load(job.grid_scale + c), Wide::load(job.grid_inverse + c),
                                  Wide::load(job.grid_zero + c), Wide::load(job.grid_top + c));
      store_codes(codes, job.out + row * job.out_stride + c, count);
    }
  }
}

// The same of columns that fill one. What it is asked is known when it is compiled, and read once: a byte that is
// stored might be part of the job. kSums: whether any row has a sum that counts.
template <bool kSums, bool kGelu, bool kValues, bool kOut>
void finish_whole(const saqsam_linear_job& job, const int32_t* sums, const int32_t* row_sums, int64_t first, int rows,
                  int64_t c) {
  const Wide scale = Wide::load(job.scale + c), bias = Wide::load(job.bias + c);
  const Wide step = kOut ? Wide::load(job.grid_scale + c) : bias, inverse = kOut ? Wide::load(job.grid_inverse + c) : bias;
  const Wide zero = kOut ? Wide::load(job.grid_zero + c) : bias, top = kOut ? Wide::load(job.grid_top + c) : bias;
  const int32_t *offsets = job.offset + c, *zeros = job.zero + c;
  float* values = kValues ? job.values + first * job.value_stride + c : nullptr;
  const float* residual = kValues && job.residual ? job.residual + first * job.value_stride + c : nullptr;
  uint8_t* out = kOut ? job.out + first * job.out_stride + c : nullptr;
  const int64_t value_stride = job.value_stride, out_stride = job.out_stride;
  for (int r = 0; r < rows; ++r, sums += kTileColumns) {
    Wide v = (kSums ? Wide::load_sums(sums, offsets, zeros, row_sums[r]) : Wide::load_sums(sums, offsets, 0)) * scale + bias;
    if (kGelu) v = gelu(v);
    if (kValues) {
      (residual ? Wide::load(residual + r * value_stride) + v : v).store(values + r * value_stride);
    }
    if (kOut) codes_of(v, step, inverse, zero, top).store_bytes(out + r * out_stride);
  }
}

template <bool kSums, bool kGelu>
void finish_vector(const saqsam_linear_job& job, const int32_t* sums, const int32_t* row_sums, int64_t first, int rows,
                   int64_t c) {
  const bool values = job.values && c < job.value_columns;
  if (values && job.out) finish_whole<kSums, kGelu, true, true>(job, sums, row_sums, first, rows, c);
  else if (values) finish_whole<kSums, kGelu, true, false>(job, sums, row_sums, first, rows, c);
  else if (job.out) finish_whole<kSums, kGelu, false, true>(job, sums, row_sums, first, rows, c);
}

// Sums of one tile become values, and values what the job asks for.
void finish(const saqsam_linear_job& job, const int32_t* sums, const int32_t* row_sums, int64_t first, int rows,
            int64_t column) {
  int32_t any = 0;
  for (int r = 0; r < rows; ++r) any |= row_sums[r];
  for (int64_t c = column; c < column + kTileColumns && c < job.columns; c += Wide::width) {
    const int32_t* from = sums + (c - column);
    const int64_t left = job.columns - c, kept = job.value_columns - c;
    if (left < Wide::width || (job.values && kept > 0 && kept < Wide::width))
      finish_part(job, from, row_sums, first, rows, c, left < Wide::width ? (int)left : Wide::width);
    else if (job.gelu)
      any ? finish_vector<true, true>(job, from, row_sums, first, rows, c)
          : finish_vector<false, true>(job, from, row_sums, first, rows, c);
    else
      any ? finish_vector<true, false>(job, from, row_sums, first, rows, c)
          : finish_vector<false, false>(job, from, row_sums, first, rows, c);
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
