// Sixteen lanes as four NEON registers: ARM64 with dot products (ARMv8.2-A and newer).
#pragma once

#include <arm_neon.h>

#include "lanes.hpp"

namespace nestling {

constexpr int kMaxRows = 2;      // 16 accumulators of 32 registers
constexpr int kMaxInt8Rows = 4;  // 16 accumulators
constexpr int kMaxInt4Rows = 4;
// Halves of a panel that one pass over a tile of some rows takes, as the registers allow.
constexpr int halves(int rows) { return rows <= 2 ? 2 : 1; }
constexpr bool kUnsignedWeights = false;  // sdot multiplies signed bytes
constexpr bool flips(int) { return false; }

struct F16 {
  float32x4_t v[4];
};
struct I16 {
  int32x4_t v[4];
};

// What f makes of each of the four registers.
template <class Result, class Function>
inline __attribute__((always_inline)) Result each(const Function& f) {
  return {f(0), f(1), f(2), f(3)};
}

inline F16 set1(float x) {
  return each<F16>([&](int) { return vdupq_n_f32(x); });
}
inline F16 load(const float* p) {
  return each<F16>([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, F16 x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F16 operator+(F16 x, F16 y) {
  return each<F16>([&](int i) { return vaddq_f32(x.v[i], y.v[i]); });
}
inline F16 operator-(F16 x, F16 y) {
  return each<F16>([&](int i) { return vsubq_f32(x.v[i], y.v[i]); });
}
inline F16 operator*(F16 x, F16 y) {
  return each<F16>([&](int i) { return vmulq_f32(x.v[i], y.v[i]); });
}
inline F16 operator/(F16 x, F16 y) {
  return each<F16>([&](int i) { return vdivq_f32(x.v[i], y.v[i]); });
}
// The second where one is no number, as x86 has it.
inline F16 max(F16 x, F16 y) {
  return each<F16>([&](int i) { return vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
inline F16 min(F16 x, F16 y) {
  return each<F16>([&](int i) { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
inline F16 fma(F16 x, F16 y, F16 z) {
  return each<F16>([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); });
}
inline F16 round(F16 x) {
  return each<F16>([&](int i) { return vrndnq_f32(x.v[i]); });
}

inline I16 set1(int32_t x) {
  return each<I16>([&](int) { return vdupq_n_s32(x); });
}
inline I16 load(const int32_t* p) {
  return each<I16>([&](int i) { return vld1q_s32(p + 4 * i); });
}
inline I16 load_bytes(const uint8_t* p) {
  return each<I16>([&](int i) { return vreinterpretq_s32_u8(vld1q_u8(p + 16 * i)); });
}
inline I16 load_words(const int16_t* p) {
  return each<I16>([&](int i) { return vmovl_s16(vld1_s16(p + 4 * i)); });
}
inline void store(int32_t* p, I16 x) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, x.v[i]);
}
inline I16 operator+(I16 x, I16 y) {
  return each<I16>([&](int i) { return vaddq_s32(x.v[i], y.v[i]); });
}
inline I16 operator&(I16 x, I16 y) {
  return each<I16>([&](int i) { return vandq_s32(x.v[i], y.v[i]); });
}
inline I16 max_unsigned(I16 x, I16 y) {
  return each<I16>([&](int i) {
    return vreinterpretq_s32_u32(
        vmaxq_u32(vreinterpretq_u32_s32(x.v[i]), vreinterpretq_u32_s32(y.v[i])));
  });
}
template <int kBits>
inline I16 shift_left(I16 x) {
  return each<I16>([&](int i) { return vshlq_n_s32(x.v[i], kBits); });
}
template <int kBits>
inline I16 shift_right(I16 x) {
  return each<I16>([&](int i) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x.v[i]), kBits));
  });
}
inline F16 to_float(I16 x) {
  return each<F16>([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline I16 to_int(F16 x) {
  return each<I16>([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
}
inline I16 bits(F16 x) {
  return each<I16>([&](int i) { return vreinterpretq_s32_f32(x.v[i]); });
}
inline F16 as_float(I16 x) {
  return each<F16>([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}

// Lane i keeps x where i < count, else takes other.
inline F16 keep_first(F16 x, int count, F16 other) {
  const int32_t numbers[4] = {0, 1, 2, 3};
  const int32x4_t lane = vld1q_s32(numbers);
  return each<F16>([&](int i) {
    const uint32x4_t kept = vcltq_s32(lane, vdupq_n_s32(count - 4 * i));
    return vbslq_f32(kept, x.v[i], other.v[i]);
  });
}

// sum + the four products of each lane's bytes.
inline I16 dot_bytes(I16 sum, I16 weights, I16 x) {
  return each<I16>([&](int i) {
    return vdotq_s32(sum.v[i], vreinterpretq_s8_s32(weights.v[i]), vreinterpretq_s8_s32(x.v[i]));
  });
}
// Four 8-bit weights a lane, as the dot product wants them for so many rows: signed.
struct SignedWeights {
  SignedWeights() = default;
  explicit SignedWeights(I16 raw) {
    const int32x4_t flip = vdupq_n_s32(static_cast<int32_t>(0x80808080u));
    w = each<I16>([&](int i) { return veorq_s32(raw.v[i], flip); });
  }
  I16 w;
};
inline I16 dot_bytes(I16 sum, const SignedWeights& weights, I16 x) {
  return dot_bytes(sum, weights.w, x);
}
template <int kRows>
using Weights = SignedWeights;

// Sums of products with nibbles.
using NibbleSum = I16;
inline NibbleSum no_nibbles() { return set1(0); }
inline NibbleSum dot_nibbles(NibbleSum sum, I16 nibbles, I16 x) {
  return dot_bytes(sum, nibbles, x);
}
inline I16 total(NibbleSum sum) { return sum; }

// sum + the two products of each lane's bfloat16 pair.
inline F16 dot_pairs(F16 sum, I16 x, I16 y) {
  const int32x4_t high_half = vdupq_n_s32(~0xffff);
  return each<F16>([&](int i) {
    const float32x4_t x_high = vreinterpretq_f32_s32(vandq_s32(x.v[i], high_half));
    const float32x4_t y_high = vreinterpretq_f32_s32(vandq_s32(y.v[i], high_half));
    const float32x4_t x_low = vreinterpretq_f32_s32(vshlq_n_s32(x.v[i], 16));
    const float32x4_t y_low = vreinterpretq_f32_s32(vshlq_n_s32(y.v[i], 16));
    return vfmaq_f32(vfmaq_f32(sum.v[i], x_high, y_high), x_low, y_low);
  });
}

// Low bytes of the lanes.
inline void store_bytes(int8_t* p, I16 x) {
  const int16x8_t first = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
  const int16x8_t second = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(first), vqmovn_s16(second)));
}
inline uint16x4_t rounded_to_bf16(float32x4_t x) {
  const uint32x4_t raw = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(raw, 16), vdupq_n_u32(1));
  const uint32x4_t nearest = vaddq_u32(raw, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(raw, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), nearest, quiet), 16);
}
// Lanes rounded to bfloat16, nearest even.
inline void store_bf16(uint16_t* p, F16 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, rounded_to_bf16(x.v[i]));
}
inline F16 load_bf16(const uint16_t* p) {
  return each<F16>(
      [&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}

inline int32_t sum_lanes(I16 x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}
inline uint32_t max_unsigned_lane(I16 x) {
  const I16 lower = max_unsigned({x.v[0], x.v[1], x.v[0], x.v[1]}, {x.v[2], x.v[3], x.v[2], x.v[3]});
  return vmaxvq_u32(vmaxq_u32(vreinterpretq_u32_s32(lower.v[0]), vreinterpretq_u32_s32(lower.v[1])));
}

// Lanes added by halves: i and i + 8, then i and i + 4, and so on, as all instruction sets do it.
inline float sum_lanes(F16 x) {
  const float32x4_t four =
      vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float max_lanes(F16 x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

}  // namespace nestling
