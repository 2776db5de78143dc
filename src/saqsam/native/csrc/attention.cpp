// Attention, layer norm and patches: what is shared among threads.
#include <string.h>

#include <memory>

#include "level.h"
#include "pool.h"

namespace {

struct Attention {
  const Level* level;
  const saqsam_attention_job* job;
  int64_t parts, packed_bytes, scratch_bytes, first_map;
  char* packed;  // of the maps that are worked on together
};

// Tokens of the window of a map that lie within the image, in tiles of queries.
int64_t parts_of(const Attention& a, int64_t map) {
  const saqsam_attention_job& job = *a.job;
  const int64_t count = (job.side + job.window - 1) / job.window, window = map / job.heads;
  const int64_t y = job.side - window / count * job.window, x = job.side - window % count * job.window;
  const int64_t tokens = (y < job.window ? y : job.window) * (x < job.window ? x : job.window);
  const int64_t queries = job.pooled ? tokens / 4 : tokens;
  return (queries + a.level->rows - 1) / a.level->rows;
}

// One map from its keys to its outputs, by one thread.
void run_map(void* context, int64_t map) {
  const Attention& a = *(const Attention*)context;
  const Tiles tiles(*a.level);
  char* packed = (char*)thread_scratch(a.packed_bytes + a.scratch_bytes);
  a.level->pack_map(*a.job, map, packed);
  const int64_t parts = parts_of(a, map);
  for (int64_t part = 0; part < parts; ++part)
    a.level->attend(*a.job, map, part, packed, packed + a.packed_bytes);
}

void pack_one(void* context, int64_t index) {
  const Attention& a = *(const Attention*)context;
  a.level->pack_map(*a.job, a.first_map + index, a.packed + index * a.packed_bytes);
}

void attend_part(void* context, int64_t index) {
  const Attention& a = *(const Attention*)context;
  const Tiles tiles(*a.level);
  const int64_t map = index / a.parts;
  a.level->attend(*a.job, a.first_map + map, index % a.parts, a.packed + map * a.packed_bytes,
                  thread_scratch(a.scratch_bytes));
}

struct Norm {
  const Level* level;
  const saqsam_norm_job* job;
};
const int64_t kNormRows = 32;

void norm_rows(void* context, int64_t index) {
  const Norm& norm = *(const Norm*)context;
  float* scratch = (float*)thread_scratch(norm.job->inner * 4);
  for (int64_t row = index * kNormRows; row < (index + 1) * kNormRows && row < norm.job->rows; ++row)
    norm.level->norm(*norm.job, row, scratch);
}

struct Patches {
  const uint8_t* codes;
  int64_t code_stride, side, channels;
  uint8_t zero;
  uint8_t* out;
  int64_t out_stride;
};

void patch_row(void* context, int64_t y) {
  const Patches& p = *(const Patches*)context;
  for (int64_t x = 0; x < p.side; ++x) {
    uint8_t* to = p.out + (y * p.side + x) * p.out_stride;
    for (int64_t place = 0; place < 9; ++place, to += p.channels) {
      const int64_t from_y = y + place / 3 - 1, from_x = x + place % 3 - 1;
      if (from_y < 0 || from_y >= p.side || from_x < 0 || from_x >= p.side) memset(to, p.zero, p.channels);
      else memcpy(to, p.codes + (from_y * p.side + from_x) * p.code_stride, p.channels);
    }
  }
}

}  // namespace

void saqsam_attention(int32_t index, int32_t threads, const saqsam_attention_job* job) {
  Attention a;
  a.level = level_of(index);
  a.job = job;
  a.packed_bytes = a.level->attention_bytes(*job);
  a.scratch_bytes = a.level->attention_scratch(*job);
  const int64_t count = (job->side + job->window - 1) / job->window, maps = count * count * job->heads;
  if (count > 1) return run_parallel(maps, threads, run_map, &a);
  // Few large maps: their parts are shared, a few maps at a time, so that little is packed at once.
  const int64_t together = maps < 2 * threads ? maps : 2 * threads;
  std::unique_ptr<char[]> memory(new char[together * a.packed_bytes + 64]);
  a.packed = (char*)(((uintptr_t)memory.get() + 63) / 64 * 64);
  a.parts = parts_of(a, 0);
  for (a.first_map = 0; a.first_map < maps; a.first_map += together) {
    const int64_t now = maps - a.first_map < together ? maps - a.first_map : together;
    run_parallel(now, threads, pack_one, &a);
    run_parallel(now * a.parts, threads, attend_part, &a);
  }
}

void saqsam_norm(int32_t index, int32_t threads, const saqsam_norm_job* job) {
  Norm norm = {level_of(index), job};
  run_parallel((job->rows + kNormRows - 1) / kNormRows, threads, norm_rows, &norm);
}

void saqsam_patches(int32_t threads, const uint8_t* codes, int64_t code_stride, int64_t side, int64_t channels,
                    uint8_t zero, uint8_t* out, int64_t out_stride) {
  Patches p = {codes, code_stride, side, channels, zero, out, out_stride};
  run_parallel(side, threads, patch_row, &p);
}
