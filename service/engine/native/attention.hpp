// Attention of some tokens of one sequence over the cache, for one key head.
//
// Keys are taken in parts of 128 from the first on. Within a part the softmax is exact; parts are
// merged in order (online softmax, arXiv:1805.02867). A query's result depends on neither its
// neighbours in the tile nor how its prompt was cut: keys that it may not see weigh exactly zero.
#pragma once

#include <cmath>

#include "bfloat16.hpp"
#include "cache.hpp"

namespace nestling {

constexpr int kPart = 128;
constexpr int kMaxWidth = 256;

// Queries that look at one key head: rows of width D, in bfloat16. Row r may see `visible(r)` keys.
struct Queries {
  const uint16_t* q;
  int tokens;      // neighbours of one sequence
  int group;       // query heads of the key head: rows are [token][head of the group]
  int position;    // of the first token

  int rows() const { return tokens * group; }
  int visible(int row) const { return position + row / group + 1; }
};

template <int kRows>
struct Softmax {
  float peak[kRows], weight[kRows];
  alignas(64) float mixed[kRows][kMaxWidth];

  explicit Softmax(int width) {
    for (int r = 0; r < kRows; ++r) {
      peak[r] = -INFINITY;
      weight[r] = 0.0f;
      for (int d = 0; d < width; ++d) mixed[r][d] = 0.0f;
    }
  }
};

// Few queries wait for memory: what is needed next is asked for while they are multiplied.
template <int kRows>
inline void prefetch(const uint32_t* words, int count) {
  if constexpr (kRows <= kMaxRows / 3)
    for (int i = 0; i < count; i += 16) __builtin_prefetch(words + i);
}

// Turns a row of scores into bfloat16 weights relative to their largest; keys from `visible` on
// weigh zero. Returns the largest score and the sum of the weights.
struct PartSum {
  float peak, weight;
};
inline PartSum weigh(const float* scores, int keys, int visible, uint16_t* weights) {
  F16 largest = set1(-INFINITY);
  for (int k = 0; k < visible; k += kLanes)
    largest = max(largest, keep_first(load(scores + k), visible - k, set1(-INFINITY)));
  const float peak = max_lanes(largest);
  F16 sum = zero();
  for (int k = 0; k < keys; k += kLanes) {
    const int count = std::max(visible - k, 0);
    const F16 weight = count == 0 ? zero() : keep_first(exp(load(scores + k) - set1(peak)), count, zero());
    sum = sum + weight;
    store_bf16(weights + k, weight);
  }
  return {peak, sum_lanes(sum)};
}

// Rows [first, first + kRows) of the queries. A token's heads lie side by side in out, tokens
// `token_stride` apart.
template <int kRows>
void attend_rows(const Cache& cache, int layer, int slot, int head, const Queries& queries,
                 int first, float* out, int64_t token_stride) {
  const int width = cache.width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  const auto* q = reinterpret_cast<const uint32_t*>(queries.q + int64_t{first} * width);
  const auto* keys = reinterpret_cast<const uint32_t*>(cache.at(cache.keys, layer, slot, head));
  const auto* values = reinterpret_cast<const uint32_t*>(cache.at(cache.values, layer, slot, head));
  const int end = queries.visible(first + kRows - 1);
  Softmax<kRows> state(width);
  alignas(64) float scores[kRows][kPart];
  alignas(64) uint16_t weights[kRows][kPart];
  for (int begin = 0; begin < end; begin += kPart) {
    const int count = (std::min(end - begin, kPart) + kPanel - 1) / kPanel * kPanel;
    for (int k = 0; k < count; k += kPanel) {
      F16 tile[kRows][2];
      const int64_t here = int64_t{begin + k} * (width / 2);
      prefetch<kRows>(keys + here + kPanel * (width / 2), kPanel * (width / 2));
      prefetch<kRows>(values + here, kPanel * (width / 2));
      multiply_pairs<kRows>(q, width / 2, 1, keys + here, kPanel, width / 2, tile);
      for (int r = 0; r < kRows; ++r) {
        store(scores[r] + k, tile[r][0] * set1(scale));
        store(scores[r] + k + kLanes, tile[r][1] * set1(scale));
      }
    }
    float old_share[kRows], new_share[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int visible = std::min(std::max(queries.visible(first + r) - begin, 0), kPart);
      old_share[r] = 1.0f;
      new_share[r] = 0.0f;
      const PartSum part = weigh(scores[r], count, visible, weights[r]);
      if (visible == 0) continue;
      const float peak = std::max(state.peak[r], part.peak);
      old_share[r] = std::exp(state.peak[r] - peak);
      new_share[r] = std::exp(part.peak - peak);
      state.weight[r] = state.weight[r] * old_share[r] + part.weight * new_share[r];
      state.peak[r] = peak;
    }
    for (int d = 0; d < width; d += kPanel) {
      F16 tile[kRows][2];
      multiply_pairs<kRows>(reinterpret_cast<const uint32_t*>(weights), kPart / 2, 1,
                            values + int64_t{begin} / 2 * width + d, width, count / 2, tile);
      for (int r = 0; r < kRows; ++r) {
        for (int half = 0; half < 2; ++half) {
          float* mixed = state.mixed[r] + d + half * kLanes;
          const F16 kept = load(mixed) * set1(old_share[r]);
          store(mixed, fma(tile[r][half], set1(new_share[r]), kept));
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const F16 inverse = set1(1.0f / state.weight[r]);
    const int token = (first + r) / queries.group, member = (first + r) % queries.group;
    float* row = out + token * token_stride + int64_t{member} * width;
    for (int d = 0; d < width; d += kLanes) store(row + d, load(state.mixed[r] + d) * inverse);
  }
}

inline void attend(const Cache& cache, int layer, int slot, int head, const Queries& queries,
                   float* out, int64_t token_stride) {
  for (int first = 0; first < queries.rows(); first += kMaxRows)
    with_rows<kMaxRows>(std::min(queries.rows() - first, kMaxRows), [&](auto count) {
      attend_rows<decltype(count)::value>(cache, layer, slot, head, queries, first, out,
                                                token_stride);
    });
}

}  // namespace nestling
