// Products of 4-bit weights and 8-bit activations.
//
// A weight is (nibble - 8) · the scale of its output and 32 inputs. Activations are those of int8.
#pragma once

#include <cmath>

#include "int8.hpp"

namespace nestling {

// Weights [N, K]: panels of K / 32 blocks. A block is 4 lines of 64 bytes for each of the two
// vectors of outputs, then the 32 scales in bfloat16. A line's low nibbles are 4 inputs of each
// output, its high nibbles the next 4.
struct Int4Matrix {
  using Rows = Int8Rows;
  static constexpr int kGroup = kSumGroup;
  static constexpr int kBlockBytes = kPanel * kGroup / 2 + 2 * kPanel;

  Int4Matrix(const uint8_t* data, int outputs, int inputs)
      : data(data), outputs(outputs), inputs(inputs) {}

  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  static int64_t panel_bytes(int inputs) { return int64_t{inputs} / kGroup * kBlockBytes; }

  template <int kRows>
  void tile(const Rows& rows, int tile, int panel, F16 (&out)[kRows][2]) const {
    const uint8_t* b = data + panel * panel_bytes(inputs);
    const int height = rows.tiling.height, group = rows.group, first_row = tile * height;
    const int32_t* a = rows.words + int64_t{1} * first_row * (inputs / 4);
    for (int i = 0; i < kRows; ++i) out[i][0] = out[i][1] = zero();
    for (int g = 0; g < inputs / group; ++g) {
      F16 part[kRows][2];
      for (int i = 0; i < kRows; ++i) part[i][0] = part[i][1] = zero();
      for (int block = 0; block < group / kGroup; ++block) {
        add_block<kRows>(rows, first_row, g * (group / kGroup) + block, a, b, part);
        a += kGroup / 4 * height;
        b += kBlockBytes;
      }
      for (int i = 0; i < kRows; ++i) {
        const F16 scale = set1(rows.scales_of(first_row + i)[g]);
        out[i][0] = fma(part[i][0], scale, out[i][0]);
        out[i][1] = fma(part[i][1], scale, out[i][1]);
      }
    }
  }

  static void pack(const float* weights, int outputs, int inputs, int panel, uint8_t* out) {
    uint8_t* block = out + panel * panel_bytes(inputs);
    for (int k = 0; k < inputs; k += kGroup, block += kBlockBytes) {
      std::memset(block, 0x88, kBlockBytes - 2 * kPanel);
      std::memset(block + kBlockBytes - 2 * kPanel, 0, 2 * kPanel);
      for (int n = 0; n < kPanel && panel * kPanel + n < outputs; ++n)
        pack_group(weights + int64_t{1} * (panel * kPanel + n) * inputs + k, n, block);
    }
  }

  const uint8_t* data;
  int outputs, inputs;

 private:
  template <int kRows>
  static inline __attribute__((always_inline)) void add_block(const Rows& rows, int first_row,
                                                             int block, const int32_t* a,
                                                             const uint8_t* b,
                                                             F16 (&part)[kRows][2]) {
    const int height = rows.tiling.height;
    const I16 low_nibble = set1(0x0f0f0f0f);
    I16 sum[kRows][2];
    for (int i = 0; i < kRows; ++i)
      sum[i][0] = sum[i][1] = set1(-8 * rows.sums_of(first_row + i)[block]);
    for (int line = 0; line < kGroup / 8; ++line) {
      const I16 first = load_bytes(b), second = load_bytes(b + 64);
      const I16 low[2] = {first & low_nibble, second & low_nibble};
      const I16 high[2] = {shift_right<4>(first) & low_nibble, shift_right<4>(second) & low_nibble};
      b += 128;
      for (int i = 0; i < kRows; ++i) {
        const I16 x = set1(a[i]), y = set1(a[height + i]);
        sum[i][0] = dot_nibbles(dot_nibbles(sum[i][0], low[0], x), high[0], y);
        sum[i][1] = dot_nibbles(dot_nibbles(sum[i][1], low[1], x), high[1], y);
      }
      a += 2 * height;
    }
    const auto* scales = reinterpret_cast<const uint16_t*>(b);
    const F16 first_scale = load_bf16(scales), second_scale = load_bf16(scales + kLanes);
    for (int i = 0; i < kRows; ++i) {
      part[i][0] = fma(to_float(sum[i][0]), first_scale, part[i][0]);
      part[i][1] = fma(to_float(sum[i][1]), second_scale, part[i][1]);
    }
  }

  // Chooses the scale, of some, whose squared error is smallest; the value of largest magnitude
  // is put at -8 · candidate / 8, so that the one more step of the negative side is used.
  static void pack_group(const float* x, int n, uint8_t* block) {
    float peak = 0.0f;
    for (int k = 0; k < kGroup; ++k)
      if (std::fabs(x[k]) > std::fabs(peak)) peak = x[k];
    uint16_t best_scale = 0;
    float best_error = INFINITY;
    for (float steps = 6.0f; steps <= 9.0f; steps += 0.25f) {
      const uint16_t scale = to_bf16(peak / -steps);
      const float error = squared_error(x, from_bf16(scale));
      if (error < best_error) {
        best_error = error;
        best_scale = scale;
      }
    }
    std::memcpy(block + kBlockBytes - 2 * kPanel + 2 * n, &best_scale, sizeof best_scale);
    const float scale = from_bf16(best_scale);
    for (int k = 0; k < kGroup; ++k) {
      const int nibble = scale == 0.0f ? 8 : quantized(x[k], 1.0f / scale);
      const int line = k / 8, vector = n / kLanes;
      uint8_t& byte = block[(line * 2 + vector) * 64 + n % kLanes * 4 + k % 4];
      byte = k / 4 % 2 ? (byte & 0x0f) | (nibble << 4) : (byte & 0xf0) | nibble;
    }
  }

  static int quantized(float x, float inverse) {
    return static_cast<int>(std::nearbyintf(std::min(std::max(x * inverse, -8.0f), 7.0f))) + 8;
  }
  static float squared_error(const float* x, float scale) {
    if (scale == 0.0f) return 0.0f;
    const F16 inverse = set1(1.0f / scale), step = set1(scale);
    F16 error = zero();
    for (int k = 0; k < kGroup; k += kLanes) {
      const F16 value = load(x + k);
      const F16 q = round(min(max(value * inverse, set1(-8.0f)), set1(7.0f)));
      const F16 difference = value - q * step;
      error = fma(difference, difference, error);
    }
    return sum_lanes(error);
  }
  static uint16_t to_bf16(float x) {
    uint16_t rounded[kLanes];
    store_bf16(rounded, set1(x));
    return rounded[0];
  }
  static float from_bf16(uint16_t x) {
    const uint32_t wide = uint32_t{x} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

}  // namespace nestling
