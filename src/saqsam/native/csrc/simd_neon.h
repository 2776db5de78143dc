// Four floats in a NEON register: the operations of simd.h, for the level that has NEON with dot product.
#pragma once
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

namespace {

struct F4 {
  static constexpr int width = 4;
  float32x4_t v;
  static F4 set(float x) { return {vdupq_n_f32(x)}; }
  static F4 load(const float* p) { return {vld1q_f32(p)}; }
  static F4 load_bytes(const uint8_t* p) {
    uint32_t four;
    memcpy(&four, p, 4);
    const uint16x8_t words = vmovl_u8(vcreate_u8(four));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)))};
  }
  static F4 load_sums(const int32_t* sums, const int32_t* offset, const int32_t* zero, int32_t row) {
    const int32x4_t s = vaddq_s32(vld1q_s32(sums), vld1q_s32(offset));
    return {vcvtq_f32_s32(vmlsq_s32(s, vld1q_s32(zero), vdupq_n_s32(row)))};
  }
  static F4 load_sums(const int32_t* sums, const int32_t* offset, int32_t minus) {
    const int32x4_t s = vaddq_s32(vld1q_s32(sums), vld1q_s32(offset));
    return {vcvtq_f32_s32(vsubq_s32(s, vdupq_n_s32(minus)))};
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void store_bytes(uint8_t* p) const {
    const uint16x4_t words = vmovn_u32(vcvtq_u32_f32(v));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);
    memcpy(p, &four, 4);
  }
};
inline F4 operator+(F4 a, F4 b) { return {vaddq_f32(a.v, b.v)}; }
inline F4 operator-(F4 a, F4 b) { return {vsubq_f32(a.v, b.v)}; }
inline F4 operator*(F4 a, F4 b) { return {vmulq_f32(a.v, b.v)}; }
inline F4 operator/(F4 a, F4 b) { return {vdivq_f32(a.v, b.v)}; }
inline F4 fused(F4 a, F4 b, F4 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
// Not vmaxq_f32: of a NaN and a number it gives the NaN.
inline F4 larger(F4 a, F4 b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline F4 smaller(F4 a, F4 b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline F4 rounded(F4 a) { return {vrndnq_f32(a.v)}; }
inline F4 magnitude(F4 a) { return {vabsq_f32(a.v)}; }
inline F4 signed_as(F4 a, F4 b) { return {vbslq_f32(vdupq_n_u32(0x80000000u), b.v, a.v)}; }
inline F4 times_power(F4 a, F4 b) {
  const uint32x4_t power = vshlq_n_u32(vreinterpretq_u32_f32(b.v), 23);
  return {vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a.v), power))};
}
inline F4 zero_below(F4 value, F4 x, float limit) {
  const uint32x4_t below = vcltq_f32(x.v, vdupq_n_f32(limit));
  return {vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value.v), below))};
}
inline F4 looked_up(const float* table, F4 x) {
  const uint32x4_t index = vshrq_n_u32(vreinterpretq_u32_f32(x.v), 20);
  const float four[] = {table[vgetq_lane_u32(index, 0)], table[vgetq_lane_u32(index, 1)],
                        table[vgetq_lane_u32(index, 2)], table[vgetq_lane_u32(index, 3)]};
  return F4::load(four);
}
inline F4 where_above(F4 x, F4 limit, F4 yes, F4 no) {
  return {vbslq_f32(vcgtq_f32(x.v, limit.v), yes.v, no.v)};
}
inline F4 near_inverse(F4 a) {  // eight bits, then twice as many with each step
  const float32x4_t first = vrecpeq_f32(a.v), second = vmulq_f32(first, vrecpsq_f32(a.v, first));
  return {vmulq_f32(second, vrecpsq_f32(a.v, second))};
}
inline bool any_above(F4 a, F4 b) { return vminvq_u32(vcleq_f32(a.v, b.v)) == 0; }

}  // namespace
