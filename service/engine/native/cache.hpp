// Keys and values of one layer in the layout that attention multiplies by.
//
// Per slot and key head, for T tokens (a multiple of 32) of width D in bfloat16:
// keys [T / 32][D / 2][32 tokens][2], values [T / 2][D][2 tokens].
#pragma once

#include "simd.hpp"
#include "tiles.hpp"

namespace nestling {

struct Cache {
  uint16_t* keys;
  uint16_t* values;
  int slots, kv_heads, tokens, width;

  uint16_t* at(uint16_t* base, int layer, int slot, int head) const {
    const int64_t index = (int64_t{layer} * slots + slot) * kv_heads + head;
    return base + index * tokens * width;
  }

  void write_key(int layer, int slot, int head, int position, const uint16_t* key) const {
    uint16_t* panel = at(keys, layer, slot, head) + int64_t{position} / kPanel * kPanel * width;
    auto* pairs = reinterpret_cast<uint32_t*>(panel) + position % kPanel;
    for (int d = 0; d < width; d += 2) std::memcpy(pairs + d / 2 * kPanel, key + d, 4);
  }

  void write_value(int layer, int slot, int head, int position, const uint16_t* value) const {
    uint16_t* pairs = at(values, layer, slot, head) + int64_t{position} / 2 * 2 * width;
    for (int d = 0; d < width; ++d) pairs[2 * d + position % 2] = value[d];
  }
};

}  // namespace nestling
