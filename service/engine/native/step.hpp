// What Python hands over: weights to pack, a model's packed weights, and one step over them.
#pragma once

#include <cstdint>

namespace nestling {

enum Format : int32_t { kBf16 = 0, kInt8 = 1, kInt4 = 2 };

// What a C function says about itself; library.py numbers them alike.
enum Outcome : int32_t { kDone = 0, kOutOfRange = 1, kNoResources = 2 };

// Rows of a published weight, on their way into a packed matrix. A weight has runs of neighbouring
// outputs there, `stride` apart: gate and up projection alternate by 16.
struct PackArguments {
  const float* weights;  // [count, inputs]
  int32_t count, inputs;
  int32_t first_row;  // of these rows, in the weight
  int32_t first_output;  // of the weight, in the matrix
  int32_t run, stride;
  uint8_t* matrix;
};

// Plain memory of Python's (ctypes); pointers stay valid while the model lives.
struct LayerWeights {
  const float* attention_norm;
  const uint8_t* qkv;
  const uint8_t* output;
  const float* mlp_norm;
  const uint8_t* gate_up;  // rows alternate: 16 of gate, 16 of up
  const uint8_t* down;
};

struct Shape {
  int32_t layers, hidden, inner, heads, kv_heads, head_dim, vocab;
  int32_t max_rows;  // of one step
  int32_t max_positions;
  int32_t format;       // of the blocks' matrices
  int32_t head_format;  // of embedding and head
  float epsilon;
};

struct ModelWeights {
  const LayerWeights* layers;
  const float* final_norm;
  const uint8_t* embedding;
  const uint8_t* head;
  const float* cos;  // [max_positions, head_dim / 2]
  const float* sin;
};

struct StepArguments {
  int32_t rows;         // tokens of the step, those of a sequence in order
  int32_t logit_rows;   // of them, those whose logits are wanted
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* slots;
  const int32_t* logit_row;  // indices of rows
  uint16_t* keys;            // see cache.hpp
  uint16_t* values;
  int32_t num_slots;
  int32_t max_tokens;   // of a slot, a multiple of 32
  float* logits;        // [logit_rows, logits_stride]
  int64_t logits_stride;  // vocab rounded up to panels
  uint8_t* finite;      // [rows]
  int64_t* nanoseconds;  // [kParts], added to; may be null
};

// Parts of a step, as `nanoseconds` counts them.
enum Part { kEmbed, kNorm, kQkv, kRotate, kAttention, kOutput, kGateUp, kDown, kHead, kParts };

}  // namespace nestling
