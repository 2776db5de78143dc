// The mask decoder's kernels: what is shared among threads, and the steps of a few rows of the image in turn.
#include <string.h>

#include "level.h"
#include "pool.h"

namespace {

const int64_t kRows = 96;  // their floats and codes stay in the cache

struct Image {
  const Level* level;
  const saqsam_image_job* job;
  int64_t blocks;  // of a prompt
  int64_t stride, float_bytes, code_bytes, step_bytes;
};

int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t in_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Where a buffer of rows would begin if row `first` were the one at `at`.
template <class T>
T* as_if_from(T* at, int64_t first, int64_t stride) {
  return (T*)((uintptr_t)at - (uintptr_t)(first * stride) * sizeof(T));
}

Image image_of(int32_t index, const saqsam_image_job& job) {
  Image image = {level_of(index), &job, (job.rows + kRows - 1) / kRows, 0, 0, 0, 0};
  const Level& level = *image.level;
  image.stride = padded(job.inner);
  for (int32_t p = 0; p < job.projections; ++p)
    image.step_bytes = larger_of(image.step_bytes, linear_scratch(level, *job.projection[p].layer, kRows));
  if (job.attention) {
    image.stride = larger_of(image.stride, padded(job.output->inner));
    image.step_bytes = larger_of(image.step_bytes, linear_scratch(level, *job.output, kRows));
    image.step_bytes = larger_of(image.step_bytes, level.image_asks_scratch(*job.attention));
  }
  image.float_bytes = in_lines(kRows * job.inner * 4);
  image.code_bytes = in_lines(kRows * image.stride + 64);
  return image;
}

void image_block(void* context, int64_t index) {
  const Image& image = *(const Image*)context;
  const saqsam_image_job& job = *image.job;
  const Tiles tiles(*image.level);
  // One prompt after the other has its turn at the same place: what they share is still in the cache.
  const int64_t within = index / job.prompts * kRows, first = index % job.prompts * job.rows + within;
  const int64_t rows = job.rows - within < kRows ? job.rows - within : kRows;
  char* at = (char*)thread_scratch(image.float_bytes + SAQSAM_MOST_PROJECTIONS * image.code_bytes + image.step_bytes);
  float* x = (float*)at;
  at += image.float_bytes;
  uint8_t* codes[SAQSAM_MOST_PROJECTIONS];
  for (uint8_t*& one : codes) {
    one = (uint8_t*)at;
    at += image.code_bytes;
  }
  if (job.attention) {
    saqsam_cross_job attention = *job.attention;
    attention.out = as_if_from(codes[0], first, image.stride);
    attention.out_stride = image.stride;
    image.level->image_asks(attention, first, rows, at);
    saqsam_linear_job output = *job.output;
    output.codes = attention.out;
    output.code_stride = image.stride;
    output.values = as_if_from(x, first, job.inner);
    output.value_stride = output.value_columns = job.inner;
    linear_rows(*image.level, output, first, rows, at);
  } else {
    memcpy(x, job.x + first * job.inner, rows * job.inner * 4);
  }
  image.level->settle(job, first, rows, x, codes, image.stride);
  for (int32_t p = 0; p < job.projections; ++p) {
    saqsam_linear_job layer = *job.projection[p].layer;
    layer.codes = as_if_from(codes[p], first, image.stride);
    layer.code_stride = image.stride;
    linear_rows(*image.level, layer, first, rows, at);
  }
}

struct Tokens {
  const Level* level;
  const saqsam_cross_job* job;
};

void ask(void* context, int64_t prompt) {
  const Tokens& t = *(const Tokens*)context;
  const Tiles tiles(*t.level);
  t.level->tokens_ask(*t.job, prompt, thread_scratch(t.level->tokens_ask_scratch(*t.job)));
}

struct Upscale {
  const Level* level;
  const saqsam_upscale_job* job;
  int64_t blocks;  // of a prompt
};

void upscale_block(void* context, int64_t index) {
  const Upscale& u = *(const Upscale*)context;
  const int64_t all = u.job->side * u.job->side, within = index % u.blocks * kRows;
  u.level->upscale(*u.job, index / u.blocks * all + within, all - within < kRows ? all - within : kRows,
                   thread_scratch(u.level->upscale_scratch(*u.job)));
}

}  // namespace

void saqsam_image(int32_t index, int32_t threads, const saqsam_image_job* job) {
  Image image = image_of(index, *job);
  run_parallel(job->prompts * image.blocks, threads, image_block, &image);
}

void saqsam_tokens_ask(int32_t index, int32_t threads, const saqsam_cross_job* job) {
  Tokens t = {level_of(index), job};
  run_parallel(job->prompts, threads, ask, &t);
}

void saqsam_upscale(int32_t index, int32_t threads, const saqsam_upscale_job* job) {
  Upscale u = {level_of(index), job, (job->side * job->side + kRows - 1) / kRows};
  run_parallel(job->prompts * u.blocks, threads, upscale_block, &u);
}

int64_t saqsam_pack_matrix(int32_t index, const float* matrix, int64_t inner, int64_t columns, float* out) {
  const int64_t panel = level_of(index)->float_columns, panels = (columns + panel - 1) / panel;
  if (!out) return panels * panel * inner;
  memset(out, 0, panels * panel * inner * sizeof(float));
  for (int64_t n = 0; n < columns; ++n)
    for (int64_t k = 0; k < inner; ++k)
      out[n / panel * panel * inner + k * panel + n % panel] = matrix[k * columns + n];
  return panels * panel * inner;
}
