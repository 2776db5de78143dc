// Steps of the decoder that compute each row by itself, some rows at a time through all of them; and float weights.
#include <string.h>

#include "level.h"
#include "pool.h"

namespace {

const int64_t kRows = 96;  // their floats and codes stay in the cache

struct Rows {
  const Level* level;
  const saqsam_step* steps;
  int64_t count, rows, blocks;
};

void run_step(const Level& level, const saqsam_step& step, int64_t first, int64_t rows) {
  switch (step.kind) {
    case SAQSAM_STEP_LINEAR:
      return linear_rows(level, *(const saqsam_linear_job*)step.job, first, rows);
    case SAQSAM_STEP_SETTLE: {
      const saqsam_settle_job& job = *(const saqsam_settle_job*)step.job;
      return level.settle(job, first, rows, thread_scratch(level.settle_scratch(job)));
    }
    case SAQSAM_STEP_IMAGE_ASKS: {
      const saqsam_cross_job& job = *(const saqsam_cross_job*)step.job;
      return level.image_asks(job, first, rows, thread_scratch(level.image_asks_scratch(job)));
    }
    default: {
      const saqsam_upscale_job& job = *(const saqsam_upscale_job*)step.job;
      return level.upscale(job, first, rows, thread_scratch(level.upscale_scratch(job)));
    }
  }
}

void run_block(void* context, int64_t index) {
  const Rows& r = *(const Rows*)context;
  const int64_t within = index % r.blocks * kRows, first = index / r.blocks * r.rows + within;
  const int64_t count = r.rows - within < kRows ? r.rows - within : kRows;
  for (int64_t i = 0; i < r.count; ++i) run_step(*r.level, r.steps[i], first, count);
}

struct Tokens {
  const Level* level;
  const saqsam_cross_job* job;
};

void ask(void* context, int64_t prompt) {
  const Tokens& t = *(const Tokens*)context;
  t.level->tokens_ask(*t.job, prompt, thread_scratch(t.level->tokens_ask_scratch(*t.job)));
}

}  // namespace

void saqsam_rows(int32_t index, int32_t threads, const saqsam_step* steps, int64_t count, int64_t prompts,
                 int64_t rows) {
  Rows r = {level_of(index), steps, count, rows, (rows + kRows - 1) / kRows};
  run_parallel(prompts * r.blocks, threads, run_block, &r);
}

void saqsam_tokens_ask(int32_t index, int32_t threads, const saqsam_cross_job* job) {
  Tokens t = {level_of(index), job};
  run_parallel(job->prompts, threads, ask, &t);
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
