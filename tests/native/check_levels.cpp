// Every level against 64-bit integers and against the plain one, on buffers of exactly the documented sizes: for the
// address and undefined-behaviour sanitizers, which `make sanitize` compiles this with, and for processors that are
// emulated, which `make arm` compiles it for. Says which levels it has run; `check_levels N`: of N seeds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
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
  for (int level = 1; level < SAQSAM_LEVELS; ++level)
    if ((levels >> level & 1) && !(run(level, seed) == plain)) {
      std::printf("%s, level %d, seed %u: not what the plain level gives\n", what, level, seed);
      return false;
    }
  return true;
}

// Extremes most of all, on any number of bits; codes begin at any byte and lie any distance apart.
bool sums_are_exact(int levels, unsigned seed) {
  for (int level = 0; level < SAQSAM_LEVELS; ++level) {
    if (!(levels >> level & 1)) continue;
    generator.seed(seed);
    saqsam_linear_job job = {};
    job.rows = drawn(1, 20), job.columns = drawn(1, 70), job.inner = drawn(1, 500);
    const int code_bits = drawn(2, 8), step_bits = drawn(2, 8);
    const bool all_largest = drawn(0, 3) == 0;
    job.largest_code = (1 << code_bits) - 1, job.weight_bits = step_bits <= 4 ? 4 : 8;
    const int middle = 1 << (job.weight_bits - 1), half = 1 << (step_bits - 1);
    job.largest_step = half, job.code_stride = padded(job.inner) + drawn(0, 9);
    const int shift = drawn(0, 3);
    auto in = codes(shift + job.rows * job.code_stride, job.largest_code);
    std::vector<uint8_t> weight(job.columns * job.inner);
    for (auto& code : weight) {
      const int step = drawn(-half, half - 1), extreme = step < 0 ? -half : half - 1;
      code = (uint8_t)(middle + (drawn(0, 2) ? extreme : step));
    }
    if (all_largest) {
      std::fill(in.begin(), in.end(), (uint8_t)job.largest_code);
      std::fill(weight.begin(), weight.end(), (uint8_t)(middle - half));
    }
    std::vector<uint8_t> packed(
        saqsam_pack_weight(level, job.weight_bits, weight.data(), job.columns, job.inner, nullptr) + 64);
    saqsam_pack_weight(level, job.weight_bits, weight.data(), job.columns, job.inner, packed.data());
    std::vector<int32_t> offset(padded(job.columns)), zero(padded(job.columns));
    for (auto& x : zero) x = drawn(0, 1) ? 0 : drawn(-half, half);
    std::vector<float> scale(padded(job.columns), 1.0f), bias(padded(job.columns));
    std::vector<float> values(job.rows * job.columns);
    job.codes = in.data() + shift, job.weight = packed.data(), job.offset = offset.data(), job.zero = zero.data();
    job.scale = scale.data(), job.bias = bias.data();
    job.values = values.data(), job.value_stride = job.value_columns = job.columns;
    saqsam_linear(level, drawn(1, 3), &job);
    for (int64_t i = 0; i < job.rows * job.columns; ++i) {
      int64_t sum = 0;
      for (int64_t k = 0; k < job.inner; ++k)
        sum += (int64_t)job.codes[i / job.columns * job.code_stride + k] *
               (weight[i % job.columns * job.inner + k] - middle - zero[i % job.columns]);
      if (values[i] != (float)sum) {
        std::printf("sums, level %d, seed %u: %g is not %lld\n", level, seed, values[i], (long long)sum);
        return false;
      }
    }
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
  job.epsilon = 1e-6f, job.lanes = drawn(0, 1) ? 4 : 8, job.values = r.values.data(), job.value_stride = job.inner;
  job.out = r.out.data(), job.out_stride = job.inner, job.scale = 0.02f, job.zero = 120, job.top = 255;
  saqsam_norm(level, drawn(1, 3), &job);
  return r;
}

Result attention(int level, unsigned seed) {
  generator.seed(seed);
  saqsam_attention_job job = {};
  job.side = drawn(1, 12), job.heads = drawn(1, 3), job.width = drawn(1, 40);
  job.window = drawn(0, 1) ? job.side : drawn(1, (int)job.side);
  const bool pools = !drawn(0, 2);
  if (pools) job.side *= 2, job.window *= 2;
  const int top = drawn(0, 1) ? 255 : 15;
  const int64_t tokens = job.side * job.side, channels = 3 * job.heads * job.width;
  auto in = codes(tokens * channels, top), outside = codes(channels, top, 0);
  job.codes = in.data(), job.code_stride = channels, job.padding = outside.data();
  job.query_top = job.key_top = job.value_top = top;
  job.query_zero = drawn(0, top), job.key_zero = drawn(0, top), job.value_zero = drawn(0, top);
  job.query_scale = 0.01f, job.score_scale = 0.0001f, job.table_stride = (job.window + 15) / 16 * 16;
  auto rows = floats(job.window * job.width * job.table_stride), columns = rows;
  auto pooled = codes(tokens / 4 * job.heads * job.width, top);
  if (pools) job.pooled = pooled.data(), job.pooled_stride = job.heads * job.width;
  else if (drawn(0, 2)) job.table_rows = rows.data(), job.table_columns = columns.data();
  job.lanes = 4 << drawn(0, 2);
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

struct Pieces {  // what a random linear layer points to
  std::vector<uint8_t> packed;
  std::vector<int32_t> offset, zero;
  std::vector<float> scale, bias, grid_scale, inverse, middle, top;
  saqsam_linear_job job = {};
  Pieces(int level, int64_t inner, int64_t columns, int largest_code) {
    const int64_t wide = padded(columns);
    job.inner = inner, job.columns = columns, job.largest_code = largest_code;
    job.weight_bits = drawn(0, 1) ? 4 : 8, job.largest_step = job.weight_bits == 4 ? 8 : 128;
    auto weight = codes(columns * inner, job.weight_bits == 4 ? 15 : 255, 0);
    packed.resize(saqsam_pack_weight(level, job.weight_bits, weight.data(), columns, inner, nullptr) + 64);
    saqsam_pack_weight(level, job.weight_bits, weight.data(), columns, inner, packed.data());
    offset.assign(wide, 7), zero.assign(wide, drawn(-8, 8));
    scale.assign(wide, 1e-4f), bias = floats(wide);
    grid_scale.assign(wide, 0.01f), inverse.assign(wide, 1 / 0.01f), middle.assign(wide, 99), top.assign(wide, 255);
    job.weight = packed.data(), job.offset = offset.data(), job.zero = zero.data();
    job.scale = scale.data(), job.bias = bias.data();
    job.grid_scale = grid_scale.data(), job.grid_inverse = inverse.data();
    job.grid_zero = middle.data(), job.grid_top = top.data();
  }
};

saqsam_cross_job cross(int64_t prompts, int64_t image, int64_t heads, int64_t width, int64_t tokens, int top) {
  saqsam_cross_job job = {};
  job.prompts = prompts, job.image = image, job.heads = heads, job.width = width, job.tokens = tokens;
  job.image_rows = image * (drawn(0, 1) ? prompts : 1);
  job.image_top = job.token_top = top, job.image_zero = drawn(0, top), job.token_zero = drawn(0, top);
  job.image_stride = job.token_stride = job.value_stride = padded(heads * width);
  job.value_zero = (float)drawn(0, top), job.value_factor = 1, job.score_scale = 0.0001f;
  job.lanes = 4 << drawn(0, 2), job.map_scale = 0.5f / (float)top, job.map_top = (float)top;
  job.output_scale = 1e-5f, job.out_scale = 0.01f, job.out_zero = 128, job.out_top = 255;
  return job;
}

// Tokens ask, then the image, and what it gathered goes on to the next layer's projections.
Result decoder(int level, unsigned seed) {
  generator.seed(seed);
  const int64_t prompts = drawn(1, 3), image = drawn(1, 130), heads = drawn(1, 9), width = drawn(1, 20);
  const int64_t tokens = drawn(1, 20), channels = heads * width, inner = drawn(1, 70);
  const int top = drawn(0, 1) ? 255 : 15;
  saqsam_cross_job job = cross(prompts, image, heads, width, tokens, top);
  const int64_t stride = job.image_stride;
  auto of_image = codes(job.image_rows * stride, top), of_tokens = codes(prompts * tokens * stride, top);
  job.image_codes = of_image.data(), job.token_codes = of_tokens.data(), job.values = of_image.data();
  std::vector<float> limits(4096, 0.1f), low(4096, 0.05f), high(4096, 0.2f);
  if (drawn(0, 1)) job.level_limits = limits.data(), job.level_low = low.data(), job.level_high = high.data();
  Result r;
  r.out.resize(prompts * tokens * channels);
  job.out = r.out.data(), job.out_stride = channels;
  saqsam_tokens_ask(level, drawn(1, 3), &job);

  saqsam_cross_job asks = job;
  asks.values = of_tokens.data();
  Pieces output(level, channels, inner, 255), next(level, inner, drawn(1, 70), 255);
  auto shared = floats(image * inner), positions = floats(image * inner), weight = floats(inner), bias = floats(inner);
  saqsam_image_job rows = {};
  rows.prompts = prompts, rows.rows = image, rows.inner = inner;
  if (drawn(0, 3)) rows.attention = &asks, rows.output = &output.job;
  auto x = floats(prompts * image * inner);
  rows.x = x.data(), rows.residual = shared.data(), rows.residual_rows = image;
  rows.positions = positions.data(), rows.position_rows = image;
  if (drawn(0, 3)) rows.weight = weight.data(), rows.bias = bias.data();
  rows.epsilon = 1e-5f, rows.lanes = drawn(0, 1) ? 4 : 8;
  r.values.resize(prompts * image * inner);
  rows.values = r.values.data(), rows.projections = drawn(0, 3);
  std::vector<std::vector<uint8_t>> found(3, std::vector<uint8_t>(prompts * image * next.job.columns));
  std::vector<saqsam_linear_job> layers(3, next.job);
  for (int i = 0; i < rows.projections; ++i) {
    layers[i].out = found[i].data(), layers[i].out_stride = next.job.columns;
    rows.projection[i] = {&layers[i], 0.02f, 120, 255, drawn(0, 1)};
  }
  saqsam_image(level, drawn(1, 3), &rows);
  for (auto& one : found) r.out.insert(r.out.end(), one.begin(), one.end());
  return r;
}

// Sums of floats are in another order at each level: near, not the same.
bool upscale_is_near(int levels, unsigned seed) {
  std::vector<float> plain;
  for (int level = 0; level < SAQSAM_LEVELS; ++level) {
    if (!(levels >> level & 1)) continue;
    generator.seed(seed);
    saqsam_upscale_job job = {};
    job.prompts = drawn(1, 2), job.side = drawn(1, 11), job.inner = drawn(1, 40);
    job.first = drawn(1, 20), job.second = drawn(1, 20), job.masks = drawn(1, 3), job.epsilon = 1e-3f;
    const int64_t last = padded(4 * job.second);
    auto x = floats(job.prompts * job.side * job.side * job.inner), first = floats(job.inner * 4 * job.first);
    auto second = floats(job.first * 4 * job.second), weight = floats(job.first), bias = floats(job.first);
    auto first_bias = floats(padded(4 * job.first)), second_bias = floats(last);
    auto vectors = floats(job.prompts * job.masks * last);
    for (size_t i = 0; i < vectors.size(); ++i)
      if ((int64_t)i % last >= 4 * job.second) vectors[i] = 0;
    std::vector<float> a(saqsam_pack_matrix(level, first.data(), job.inner, 4 * job.first, nullptr));
    std::vector<float> b(saqsam_pack_matrix(level, second.data(), job.first, 4 * job.second, nullptr));
    saqsam_pack_matrix(level, first.data(), job.inner, 4 * job.first, a.data());
    saqsam_pack_matrix(level, second.data(), job.first, 4 * job.second, b.data());
    job.x = x.data(), job.first_weight = a.data(), job.first_bias = first_bias.data();
    job.norm_weight = weight.data(), job.norm_bias = bias.data();
    job.second_weight = b.data(), job.second_bias = second_bias.data(), job.vectors = vectors.data();
    auto once = floats(job.side * job.side * 4 * job.first), twice = floats(job.side * job.side * 16 * job.second);
    if (drawn(0, 1)) job.first_features = once.data(), job.second_features = twice.data();
    std::vector<float> out(job.prompts * job.masks * 16 * job.side * job.side);
    job.out = out.data();
    saqsam_upscale(level, drawn(1, 3), &job);
    if (level == 0) plain = out;
    for (size_t i = 0; i < out.size(); ++i)
      if (!(std::fabs(out[i] - plain[i]) <= 1e-2f + 1e-3f * std::fabs(plain[i]))) {
        std::printf("upscale, level %d, seed %u: %g is far from %g\n", level, seed, out[i], plain[i]);
        return false;
      }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int levels = saqsam_levels();
  const unsigned seeds = count > 1 ? (unsigned)std::atoi(arguments[1]) : 150;
  bool good = seeds > 0;
  for (unsigned seed = 0; seed < seeds; ++seed) {
    good &= sums_are_exact(levels, seed);
    good &= same_at_all_levels("linear", levels, linear, seed);
    good &= same_at_all_levels("norm", levels, norm, seed);
    good &= same_at_all_levels("attention", levels, attention, seed);
    good &= same_at_all_levels("decoder", levels, decoder, seed);
    good &= upscale_is_near(levels, seed);
  }
  auto image = codes(5 * 5 * 3, 255);
  std::vector<uint8_t> patches(25 * 32);
  saqsam_patches(2, image.data(), 3, 5, 3, 7, patches.data(), 32);
  if (good) std::printf("levels %d: all the same\n", levels);
  return good ? 0 : 1;
}
