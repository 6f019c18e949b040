// Products of 4-bit weights and 8-bit activations.
//
// A weight is nibble · scale + least, both of its output and 32 inputs. Activations are those of int8.
#pragma once

#include <cmath>

#include "int8.hpp"

namespace nestling {

// Weights [N, K]: panels of K / 32 blocks. A block is 4 lines of 64 bytes for each of the two
// vectors of outputs, then 32 scales and 32 least values in bfloat16. A line's low nibbles are 4
// inputs of each output, its high nibbles the next 4.
struct Int4Matrix {
  using Rows = ByteRows<kMaxInt4Rows>;
  static constexpr int kGroup = kSumGroup;
  static constexpr int kNibbleBytes = kPanel * kGroup / 2;
  static constexpr int kBlockBytes = kNibbleBytes + 4 * kPanel;

  Int4Matrix(const uint8_t* data, int outputs, int inputs)
      : data(data), outputs(outputs), inputs(inputs) {}

  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  static int64_t panel_bytes(int inputs) { return int64_t{inputs} / kGroup * kBlockBytes; }

  template <int kRows>
  void tile(const Rows& rows, int tile, int panel, F16 (&out)[kRows][2]) const {
    const uint8_t* b = data + panel * panel_bytes(inputs);
    const int height = rows.tiling.height, blocks = rows.group / kGroup;
    const int32_t* a = rows.words + int64_t{1} * tile * height * (inputs / 4);
    const float* sums = rows.scaled_sums + tile * height * (inputs / kGroup);
    const float* scales = rows.scales + tile * height * (inputs / rows.group);
    for (int i = 0; i < kRows; ++i) out[i][0] = out[i][1] = zero();
    for (int block = 0; block < inputs / kGroup; ++block) {
      for (int half = 0; half < 2; half += halves(kRows))
        add_block<kRows>(a, height, b, scales, sums, half, out);
      a += kGroup / 4 * height;
      b += kBlockBytes;
      sums += height;
      if (block % blocks == blocks - 1) scales += height;
    }
  }

  // Packs one output's float32 weights as row n of a panel that is zero so far.
  static void pack_row(const float* x, int inputs, int n, uint8_t* panel) {
    for (int k = 0; k < inputs; k += kGroup, panel += kBlockBytes) pack_group(x + k, n, panel);
  }

  const uint8_t* data;
  int outputs, inputs;

 private:
  // out += a block's products with halves(kRows) halves of the panel, from the first on.
  template <int kRows>
  static inline __attribute__((always_inline)) void add_block(
      const int32_t* a, int height, const uint8_t* block, const float* scales, const float* sums,
      int first, F16 (&out)[kRows][2]) {
    constexpr int kHalves = halves(kRows);
    const I16 low_nibble = set1(0x0f0f0f0f);
    const uint8_t* b = block + 64 * first;
    NibbleSum sum[kRows][kHalves];
    for (int i = 0; i < kRows; ++i)
      for (int half = 0; half < kHalves; ++half) sum[i][half] = no_nibbles();
    for (int line = 0; line < kGroup / 8; ++line, a += 2 * height, b += 128) {
      I16 low[kHalves], high[kHalves];
      for (int half = 0; half < kHalves; ++half) {
        const I16 both = load_bytes(b + 64 * half);
        low[half] = both & low_nibble;
        high[half] = shift_right<4>(both) & low_nibble;
      }
      for (int i = 0; i < kRows; ++i) {
        const I16 x = set1(a[i]), y = set1(a[height + i]);
        for (int half = 0; half < kHalves; ++half)
          sum[i][half] = dot_nibbles(dot_nibbles(sum[i][half], low[half], x), high[half], y);
      }
    }
    const auto* ranges = reinterpret_cast<const uint16_t*>(block + kNibbleBytes) + first * kLanes;
    F16 scale[kHalves], least[kHalves];
    for (int half = 0; half < kHalves; ++half) {
      scale[half] = load_bf16(ranges + half * kLanes);
      least[half] = load_bf16(ranges + kPanel + half * kLanes);
    }
    for (int i = 0; i < kRows; ++i) {
      const F16 x = set1(scales[i]), x_sum = set1(sums[i]);
      for (int half = 0; half < kHalves; ++half) {
        F16& result = out[i][first + half];
        const F16 product = to_float(total(sum[i][half])) * scale[half];
        result = fma(x_sum, least[half], fma(product, x, result));
      }
    }
  }

  // A candidate for a group: value = q · scale + least.
  struct Fit {
    float scale, least, error;
    F16 q[2];
  };

  // Of several ranges around the middle of the values, some narrower than theirs, the one whose
  // squared error is smallest; scale and least value are fitted to the rounded nibbles.
  static void pack_group(const float* x, int n, uint8_t* block) {
    const F16 values[2] = {load(x), load(x + kLanes)};
    const float highest = max_lanes(max(values[0], values[1]));
    const float lowest = -max_lanes(max(zero() - values[0], zero() - values[1]));
    Fit best{0.0f, 0.0f, INFINITY, {zero(), zero()}};
    for (int step = 0; step < 5; ++step) {
      const float width = (highest - lowest) * (1.0f - 0.06f * static_cast<float>(step));
      const float least = 0.5f * (highest + lowest - width);
      const Fit fit = fitted(values, rounded(values, width / 15.0f, least));
      if (fit.error < best.error) best = fit;
    }
    write_group(best, n, block);
  }

  // Nibbles of the values at a scale and least value.
  static Fit rounded(const F16 (&values)[2], float scale, float least) {
    Fit fit{as_bf16(scale), as_bf16(least), 0.0f, {zero(), zero()}};
    const F16 inverse = set1(fit.scale == 0.0f ? 0.0f : 1.0f / fit.scale);
    F16 error = zero();
    for (int i = 0; i < 2; ++i) {
      const F16 q = round((values[i] - set1(fit.least)) * inverse);
      fit.q[i] = min(max(q, zero()), set1(15.0f));
      const F16 off = values[i] - fma(fit.q[i], set1(fit.scale), set1(fit.least));
      error = fma(off, off, error);
    }
    fit.error = sum_lanes(error);
    return fit;
  }

  // The better of a candidate and of the least-squares line through its nibbles.
  static Fit fitted(const F16 (&values)[2], const Fit& first) {
    const float count = kGroup;
    const float q = sum_lanes(first.q[0] + first.q[1]), x = sum_lanes(values[0] + values[1]);
    const float qq = sum_lanes(fma(first.q[0], first.q[0], first.q[1] * first.q[1]));
    const float qx = sum_lanes(fma(first.q[0], values[0], first.q[1] * values[1]));
    const float determinant = count * qq - q * q;
    if (determinant <= 0.0f) return first;
    const float scale = (count * qx - q * x) / determinant;
    const Fit second = rounded(values, scale, (x - scale * q) / count);
    return second.error < first.error ? second : first;
  }

  static void write_group(const Fit& fit, int n, uint8_t* block) {
    auto* scales = reinterpret_cast<uint16_t*>(block + kNibbleBytes);
    scales[n] = to_bf16(fit.scale);
    scales[kPanel + n] = to_bf16(fit.least);
    int8_t nibbles[kGroup];
    store_bytes(nibbles, to_int(fit.q[0]));
    store_bytes(nibbles + kLanes, to_int(fit.q[1]));
    uint8_t* out = block + n / kLanes * 64 + n % kLanes * 4;
    for (int line = 0; line < kGroup / 8; ++line, out += 128)
      for (int i = 0; i < 4; ++i)
        out[i] = static_cast<uint8_t>(nibbles[8 * line + i] | nibbles[8 * line + 4 + i] << 4);
  }

  // Rounded to the nearest, even.
  static uint16_t to_bf16(float x) {
    uint32_t raw;
    std::memcpy(&raw, &x, sizeof raw);
    if (x != x) return static_cast<uint16_t>(raw >> 16 | 0x40);
    return static_cast<uint16_t>((raw + 0x7fff + (raw >> 16 & 1)) >> 16);
  }
  static float as_bf16(float x) {
    const uint32_t wide = uint32_t{to_bf16(x)} << 16;
    std::memcpy(&x, &wide, sizeof x);
    return x;
  }
};

}  // namespace nestling
