// Rows of the decoder's image between two layers: added up, normed, and rounded for each projection. For the level
// that includes this.
#pragma once
#include "floats.h"
#include "level.h"

namespace {

const int kSettledRows = 4;  // whose moments are found side by side

void round_row(const float* x, const float* position, int64_t count, const Grid& grid, uint8_t* out) {
  int64_t i = 0;
  for (; i + Wide::width <= count; i += Wide::width) {
    const Wide v = Wide::load(x + i);
    codes_of(position ? v + Wide::load(position + i) : v, grid).store_bytes(out + i);
  }
  if (i == count) return;
  const int left = (int)(count - i);
  const Wide v = load_part<Wide>(x + i, left, 0.0f);
  store_bytes_part(codes_of(position ? v + load_part<Wide>(position + i, left, 0.0f) : v, grid), out + i, left);
}

// At most kSettledRows rows, in place.
template <class V>
void norm_rows(const saqsam_image_job& job, float* x, int64_t rows) {
  const int64_t inner = job.inner;
  float mean[kSettledRows], factor[kSettledRows];
  if (rows == kSettledRows) moments<V, kSettledRows>(x, inner, inner, job.epsilon, mean, factor);
  else
    for (int64_t r = 0; r < rows; ++r) moments<V, 1>(x + r * inner, 0, inner, job.epsilon, mean + r, factor + r);
  for (int64_t r = 0; r < rows; ++r)
    scaled<Wide>(x + r * inner, inner, mean[r], factor[r], job.weight, job.bias, x + r * inner);
}

// x: (rows, inner) of rows from `first`, changed in place; codes: (rows, stride) for each projection.
void settle(const saqsam_image_job& job, int64_t first, int64_t rows, float* x, uint8_t* const* codes,
            int64_t stride) {
  const int64_t inner = job.inner;
  for (int64_t at = 0; at < rows; at += kSettledRows) {
    const int64_t end = rows - at < kSettledRows ? rows : at + kSettledRows;
    for (int64_t r = at; r < end && job.residual; ++r) {
      const float* more = job.residual + (first + r) % job.residual_rows * inner;
      for (int64_t i = 0; i < inner; ++i) x[r * inner + i] += more[i];
    }
    if (job.weight && job.lanes == 8) norm_rows<Lanes8>(job, x + at * inner, end - at);
    else if (job.weight) norm_rows<Lanes4>(job, x + at * inner, end - at);
    for (int32_t p = 0; p < job.projections; ++p) {
      const auto& to = job.projection[p];
      const Grid grid = {to.scale, 1.0f / to.scale, to.zero, to.top};
      for (int64_t r = at; r < end; ++r) {
        const float* position = to.with_positions ? job.positions + (first + r) % job.position_rows * inner : nullptr;
        round_row(x + r * inner, position, inner, grid, codes[p] + r * stride);
      }
    }
    if (job.values) memcpy(job.values + (first + at) * inner, x + at * inner, (end - at) * inner * 4);
  }
}

}  // namespace
