// Every level against the plain one, on buffers of exactly the documented sizes: for the address and
// undefined-behaviour sanitizers, which `make sanitize` compiles this with.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "saqsam_native.h"

namespace {

std::mt19937 generator(1);
int drawn(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

std::vector<uint8_t> codes(int64_t count, int top, int slack = 64) {
  std::vector<uint8_t> found(count + slack);
  for (auto& code : found) code = (uint8_t)(drawn(0, 3) ? drawn(0, top) : top);
  return found;
}
std::vector<float> floats(int64_t count) {
  std::vector<float> found(count);
  for (auto& x : found) x = std::uniform_real_distribution<float>(-2, 2)(generator);
  return found;
}
int64_t padded(int64_t x) { return (x + 31) / 32 * 32; }

struct Result {
  std::vector<float> values;
  std::vector<uint8_t> out;
  bool operator==(const Result& other) const {
    return out == other.out && values == other.values;
  }
};

bool same_at_all_levels(const char* what, int levels, Result (*run)(int level, unsigned seed), unsigned seed) {
  const Result plain = run(0, seed);
  for (int level = 1; level < 4; ++level)
    if ((levels >> level & 1) && !(run(level, seed) == plain)) {
      std::printf("%s, level %d, seed %u: not what the plain level gives\n", what, level, seed);
      return false;
    }
  return true;
}

Result linear(int level, unsigned seed) {
  generator.seed(seed);
  saqsam_linear_job job = {};
  job.rows = drawn(1, 40), job.columns = drawn(1, 70), job.inner = drawn(1, 130);
  job.weight_bits = drawn(0, 1) ? 4 : 8;
  job.largest_code = drawn(0, 1) ? 255 : 15;
  job.largest_step = job.weight_bits == 4 ? 8 : 128;
  job.gelu = drawn(0, 1);
  const int64_t columns = padded(job.columns);
  auto in = codes(job.rows * padded(job.inner), job.largest_code);
  auto weight = codes(job.columns * job.inner, job.weight_bits == 4 ? 15 : 255, 0);
  std::vector<uint8_t> packed(
      saqsam_pack_weight(level, job.weight_bits, weight.data(), job.columns, job.inner, nullptr) + 64);
  saqsam_pack_weight(level, job.weight_bits, weight.data(), job.columns, job.inner, packed.data());
  std::vector<int32_t> offset(columns), zero(columns);
  for (auto& x : offset) x = drawn(-9999, 9999);
  for (auto& x : zero) x = drawn(-8, 8);
  auto scale = floats(columns), bias = floats(columns), residual = floats(job.rows * job.columns);
  std::vector<float> grid_scale(columns, 300.0f), inverse(columns, 1 / 300.0f), middle(columns, 99), top(columns, 255);
  Result r = {std::vector<float>(job.rows * job.columns), std::vector<uint8_t>(job.rows * job.columns)};
  job.codes = in.data(), job.code_stride = padded(job.inner), job.weight = packed.data();
  job.offset = offset.data(), job.zero = zero.data(), job.scale = scale.data(), job.bias = bias.data();
  job.values = r.values.data(), job.value_stride = job.value_columns = job.columns, job.residual = residual.data();
  job.out = r.out.data(), job.out_stride = job.columns;
  job.grid_scale = grid_scale.data(), job.grid_inverse = inverse.data();
  job.grid_zero = middle.data(), job.grid_top = top.data();
  saqsam_linear(level, drawn(1, 3), &job);
  return r;
}

Result norm(int level, unsigned seed) {
  generator.seed(seed);
  saqsam_norm_job job = {};
  job.rows = drawn(1, 40), job.inner = drawn(1, 300);
  auto x = floats(job.rows * job.inner), weight = floats(job.inner), bias = floats(job.inner);
  Result r = {std::vector<float>(job.rows * job.inner), std::vector<uint8_t>(job.rows * job.inner)};
  job.x = x.data(), job.x_stride = job.inner, job.weight = weight.data(), job.bias = bias.data();
  job.epsilon = 1e-6f, job.values = r.values.data(), job.value_stride = job.inner;
  job.out = r.out.data(), job.out_stride = job.inner, job.scale = 0.02f, job.zero = 120, job.top = 255;
  saqsam_norm(level, drawn(1, 3), &job);
  return r;
}

Result attention(int level, unsigned seed) {
  generator.seed(seed);
  saqsam_attention_job job = {};
  job.side = drawn(1, 12), job.heads = drawn(1, 3), job.width = drawn(1, 40);
  job.window = drawn(0, 1) ? job.side : drawn(1, (int)job.side);
  const int top = drawn(0, 1) ? 255 : 15;
  const int64_t tokens = job.side * job.side, channels = 3 * job.heads * job.width;
  auto in = codes(tokens * channels, top), outside = codes(channels, top, 0);
  job.codes = in.data(), job.code_stride = channels, job.padding = outside.data();
  job.query_top = job.key_top = job.value_top = top;
  job.query_zero = drawn(0, top), job.key_zero = drawn(0, top), job.value_zero = drawn(0, top);
  job.query_scale = 0.01f, job.score_scale = 0.0001f, job.table_stride = (job.window + 15) / 16 * 16;
  auto rows = floats(job.window * job.width * job.table_stride), columns = rows;
  if (drawn(0, 2)) job.table_rows = rows.data(), job.table_columns = columns.data();
  job.lanes = drawn(0, 1) ? 8 : 16;
  job.map_scale = 0.5f / (float)top, job.map_top = (float)top;
  std::vector<float> limits(4096, 0.1f), low(4096, 0.05f), high(4096, 0.2f);
  if (drawn(0, 1)) job.level_limits = limits.data(), job.level_low = low.data(), job.level_high = high.data();
  job.value_scale = 0.01f, job.output_scale = 0.00001f;
  job.out_scale = 0.01f, job.out_zero = 128, job.out_top = 255;
  Result r = {{}, std::vector<uint8_t>(tokens * job.heads * job.width)};
  job.out = r.out.data(), job.out_stride = job.heads * job.width;
  saqsam_attention(level, drawn(1, 3), &job);
  return r;
}

}  // namespace

int main() {
  const int levels = saqsam_levels();
  bool good = true;
  for (unsigned seed = 0; seed < 150; ++seed) {
    good &= same_at_all_levels("linear", levels, linear, seed);
    good &= same_at_all_levels("norm", levels, norm, seed);
    good &= same_at_all_levels("attention", levels, attention, seed);
  }
  auto image = codes(5 * 5 * 3, 255);
  std::vector<uint8_t> patches(25 * 32);
  saqsam_patches(2, image.data(), 3, 5, 3, 7, patches.data(), 32);
  if (good) std::printf("levels %d: all the same\n", levels);
  return good ? 0 : 1;
}
