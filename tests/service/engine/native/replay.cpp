// Runs the C functions on another processor than the tests': numbers in, numbers out.
//
// Standard input is a series of arrays, each its bytes (int64) and then its content; standard
// output is the result's bytes. `multiply` packs weights and multiplies by them, `step` computes one
// step over packed weights and an empty cache. test_arm.py says what comes in which order.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "step.hpp"

extern "C" {
void* nestling_pool_new(int32_t num_threads);
void nestling_pool_free(void* pool);
int64_t nestling_packed_bytes(int32_t format, int32_t outputs, int32_t inputs);
int32_t nestling_pack(int32_t format, const nestling::PackArguments* rows, int32_t threads);
int32_t nestling_multiply(void* pool, int32_t format, const uint8_t* packed, int32_t outputs,
                          int32_t inputs, const float* x, int32_t rows, float* out);
void* nestling_model_new(const nestling::Shape* shape, const nestling::ModelWeights* weights);
void nestling_model_free(void* model);
int32_t nestling_step(void* model, void* pool, const nestling::StepArguments* step);
}

namespace {

constexpr size_t kLine = 64;

// The next array of the input, at the start of a line of the cache.
template <class T>
T* read_array() {
  int64_t bytes = 0;
  if (std::fread(&bytes, sizeof bytes, 1, stdin) != 1) std::exit(3);
  const size_t room = (static_cast<size_t>(bytes) + kLine) / kLine * kLine;
  void* memory = std::aligned_alloc(kLine, room);
  if (std::fread(memory, 1, static_cast<size_t>(bytes), stdin) != static_cast<size_t>(bytes)) std::exit(3);
  return static_cast<T*>(memory);
}

void write_floats(const std::vector<float>& values) {
  std::fwrite(values.data(), sizeof(float), values.size(), stdout);
}

int multiply(void* pool) {
  const int32_t* sizes = read_array<int32_t>();  // format, outputs, inputs, rows
  const auto* weights = read_array<float>();
  const auto* x = read_array<float>();
  const int32_t format = sizes[0], outputs = sizes[1], inputs = sizes[2], rows = sizes[3];
  std::vector<uint8_t> packed(nestling_packed_bytes(format, outputs, inputs));
  const nestling::PackArguments arguments{weights, outputs, inputs, 0, 0, 32, 32, packed.data()};
  std::vector<float> out(int64_t{rows} * ((outputs + 31) / 32 * 32));
  const int failed =
      nestling_pack(format, &arguments, 3) |
      nestling_multiply(pool, format, packed.data(), outputs, inputs, x, rows, out.data());
  std::fwrite(packed.data(), 1, packed.size(), stdout);
  write_floats(out);
  return failed;
}

int step(void* pool) {
  const auto* shape = read_array<nestling::Shape>();
  std::vector<nestling::LayerWeights> layers(shape->layers);
  for (auto& layer : layers) {
    layer.attention_norm = read_array<float>();
    layer.qkv = read_array<uint8_t>();
    layer.output = read_array<uint8_t>();
    layer.mlp_norm = read_array<float>();
    layer.gate_up = read_array<uint8_t>();
    layer.down = read_array<uint8_t>();
  }
  nestling::ModelWeights weights{};
  weights.layers = layers.data();
  weights.final_norm = read_array<float>();
  weights.embedding = weights.head = read_array<uint8_t>();
  weights.cos = read_array<float>();
  weights.sin = read_array<float>();
  const int32_t* token_ids = read_array<int32_t>();
  const int32_t rows = shape->max_rows;
  std::vector<int32_t> positions(rows), slots(rows), logit_row(rows);
  for (int row = 0; row < rows; ++row) positions[row] = logit_row[row] = row;
  const int32_t tokens = (rows + 31) / 32 * 32, stride = (shape->vocab + 31) / 32 * 32;
  const int64_t numbers = int64_t{shape->layers} * shape->kv_heads * tokens * shape->head_dim;
  std::vector<uint16_t> keys(numbers), values(numbers);
  std::vector<float> logits(int64_t{rows} * stride);
  std::vector<uint8_t> finite(rows);
  const nestling::StepArguments arguments{
      rows, rows, token_ids, positions.data(), slots.data(), logit_row.data(), keys.data(),
      values.data(), 1, tokens, logits.data(), stride, finite.data(), nullptr};
  void* model = nestling_model_new(shape, &weights);
  const int failed = nestling_step(model, pool, &arguments);
  nestling_model_free(model);
  write_floats(logits);
  return failed;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  void* pool = nestling_pool_new(2);
  const int failed = std::string(arguments[1]) == "multiply" ? multiply(pool) : step(pool);
  nestling_pool_free(pool);
  return failed;
}
