// Works the C functions hard, for a sanitizer to watch: every format, pools of several sizes, pools
// that come and go, steps of callers that have one pool at once, numbers out of range.
//
// Memory that is handed over has exactly the bytes that it must have. What must agree is compared:
// a step gives the same bits on any number of threads, alone and beside others. Ends with 0 if it
// all does, with 1 and a line if not.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
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

using nestling::Shape;

constexpr int kFormats[] = {nestling::kBf16, nestling::kInt8, nestling::kInt4};
constexpr int kPoolSizes[] = {1, 2, 3, 4};
constexpr int kSlots = 3, kTokens = 96, kPrompt = 37, kDecoded = 6;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "strain: %s\n", what);
  std::exit(1);
}

// Exactly so many elements, at the start of a line of the cache; zero.
template <class T>
class Array {
 public:
  explicit Array(int64_t count) : bytes_(count * sizeof(T)) {
    void* memory = nullptr;
    check(posix_memalign(&memory, 64, bytes_ + (bytes_ == 0)) == 0, "no memory");
    data_.reset(static_cast<T*>(memory));
    std::memset(memory, 0, bytes_);
  }
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }
  bool operator==(const Array& other) const {
    return bytes_ == other.bytes_ && std::memcmp(get(), other.get(), bytes_) == 0;
  }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  size_t bytes_;
  std::unique_ptr<T, Free> data_;
};

// Numbers between -1 and 1, the same for the same seed.
Array<float> noise(int64_t count, uint32_t seed) {
  Array<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
  }
  return values;
}

Array<uint8_t> packed(int format, int outputs, int inputs, uint32_t seed, int threads) {
  const Array<float> weights = noise(int64_t{outputs} * inputs, seed);
  Array<uint8_t> matrix(nestling_packed_bytes(format, outputs, inputs));
  const nestling::PackArguments rows{weights.get(), outputs, inputs, 0, 0, outputs, outputs, matrix.get()};
  check(nestling_pack(format, &rows, threads) == nestling::kDone, "a matrix was not packed");
  return matrix;
}

class Weights {
 public:
  explicit Weights(int format)
      : shape{2, 96, 320, 3, 1, 32, 70, kPrompt + kSlots, kTokens, format,
              format == nestling::kInt4 ? nestling::kInt8 : format, 1e-5f},
        norms_(noise(5 * shape.hidden, 1)),
        cos_(noise(kTokens * 16, 2)),
        sin_(noise(kTokens * 16, 3)) {
    const int qkv = shape.hidden + 2 * shape.head_dim;
    for (int layer = 0; layer < shape.layers; ++layer) {
      matrices_.push_back(packed(format, qkv, shape.hidden, 10 + layer, 1));
      matrices_.push_back(packed(format, shape.hidden, shape.hidden, 20 + layer, 2));
      matrices_.push_back(packed(format, 2 * shape.inner, shape.hidden, 30 + layer, 1));
      matrices_.push_back(packed(format, shape.hidden, shape.inner, 40 + layer, 3));
    }
    matrices_.push_back(packed(shape.head_format, shape.vocab, shape.hidden, 50, 1));
    for (int layer = 0; layer < shape.layers; ++layer) {
      const auto* matrix = &matrices_[4 * layer];
      layers_.push_back({norms_.get(), matrix[0].get(), matrix[1].get(),
                         norms_.get() + shape.hidden, matrix[2].get(), matrix[3].get()});
    }
  }

  void* model() const {
    const uint8_t* head = matrices_.back().get();
    const nestling::ModelWeights weights{layers_.data(), norms_.get() + 2 * shape.hidden, head, head,
                                         cos_.get(), sin_.get()};
    return nestling_model_new(&shape, &weights);
  }

  const Shape shape;

 private:
  const Array<float> norms_, cos_, sin_;
  std::vector<Array<uint8_t>> matrices_;
  std::vector<nestling::LayerWeights> layers_;
};

// A model with a cache of its own, which one thread at a time asks.
class Serving {
 public:
  explicit Serving(const Weights& weights)
      : s_(weights.shape),
        stride_((s_.vocab + 31) / 32 * 32),
        keys_(int64_t{s_.layers} * kSlots * s_.kv_heads * kTokens * s_.head_dim),
        values_(int64_t{s_.layers} * kSlots * s_.kv_heads * kTokens * s_.head_dim),
        model_(weights.model()) {}
  ~Serving() { nestling_model_free(model_); }
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

  struct Row {
    int32_t token, position, slot;
  };

  int32_t step(void* pool, const std::vector<Row>& rows, const Array<float>& logits) {
    const int32_t count = static_cast<int32_t>(rows.size());
    Array<int32_t> numbers(4 * int64_t{count});
    for (int i = 0; i < count; ++i) {
      numbers[i] = rows[i].token;
      numbers[count + i] = rows[i].position;
      numbers[2 * count + i] = rows[i].slot;
      numbers[3 * count + i] = i;
    }
    const Array<uint8_t> finite(count);
    const Array<int64_t> nanoseconds(nestling::kParts);
    const nestling::StepArguments arguments{
        count, count, numbers.get(), numbers.get() + count, numbers.get() + 2 * count,
        numbers.get() + 3 * count, keys_.get(), values_.get(), kSlots, kTokens, logits.get(), stride_,
        finite.get(), nanoseconds.get()};
    const int32_t outcome = nestling_step(model_, pool, &arguments);
    if (outcome == nestling::kDone)
      for (int i = 0; i < count; ++i) check(finite[i] == 1, "a row is not finite");
    return outcome;
  }

  // A prompt in one slot, then steps of all slots, and the last step's logits.
  Array<float> serve(void* pool) {
    std::vector<Row> prompt, rows(kSlots);
    for (int i = 0; i < kPrompt; ++i) prompt.push_back({i % s_.vocab, i, 1});
    prompt.push_back({5, 0, 0});
    prompt.push_back({6, 0, 2});
    const Array<float> unused(int64_t{static_cast<int>(prompt.size())} * stride_);
    check(step(pool, prompt, unused) == nestling::kDone, "a prompt was not computed");
    Array<float> logits(int64_t{kSlots} * stride_);
    for (int i = 0; i < kDecoded; ++i) {
      for (int slot = 0; slot < kSlots; ++slot)
        rows[slot] = {(7 * i + slot) % s_.vocab, slot == 1 ? kPrompt + i : 1 + i, slot};
      check(step(pool, rows, logits) == nestling::kDone, "a step was not computed");
    }
    return logits;
  }

  void refuse(void* pool) {
    const Array<float> logits(stride_);
    for (const Row& row : {Row{-1, 0, 0}, Row{s_.vocab, 0, 0}, Row{0, -1, 0}, Row{0, kTokens, 0},
                           Row{0, 0, -1}, Row{0, 0, kSlots}})
      check(step(pool, {row}, logits) == nestling::kOutOfRange, "a wrong number was computed with");
  }

 private:
  const Shape s_;
  const int64_t stride_;
  const Array<uint16_t> keys_, values_;
  void* const model_;
};

void strain_products(int format) {
  for (const auto& [outputs, inputs] : {std::pair{32, 32}, {50, 96}, {96, 576}}) {
    const Array<uint8_t> matrix = packed(format, outputs, inputs, 9, 4);
    for (int rows : {1, 2, 3, 4, 13}) {
      const Array<float> x = noise(int64_t{rows} * inputs, 4);
      std::vector<Array<float>> results;
      for (int threads : kPoolSizes) {
        void* pool = nestling_pool_new(threads);
        results.emplace_back(int64_t{rows} * ((outputs + 31) / 32 * 32));
        check(nestling_multiply(pool, format, matrix.get(), outputs, inputs, x.get(), rows,
                                results.back().get()) == nestling::kDone,
              "a product was not computed");
        nestling_pool_free(pool);
        check(results.back() == results.front(), "threads change a product");
      }
    }
  }
}

void strain_steps(int format, int rounds) {
  const Weights weights(format);
  std::vector<Array<float>> expected;
  for (int threads : kPoolSizes) {
    void* pool = nestling_pool_new(threads);
    Serving serving(weights);
    for (int round = 0; round < rounds; ++round) {
      expected.push_back(serving.serve(pool));
      check(expected.back() == expected.front(), "threads or rounds change a step");
    }
    serving.refuse(pool);
    nestling_pool_free(pool);
  }
  // The engine's thread, a candidate's probe, and one more have the pool at once.
  for (int threads : kPoolSizes) {
    void* pool = nestling_pool_new(threads);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller)
      callers.emplace_back([&] {
        Serving serving(weights);
        for (int round = 0; round < rounds; ++round)
          check(serving.serve(pool) == expected.front(), "callers change each other's steps");
      });
    for (auto& caller : callers) caller.join();
    nestling_pool_free(pool);
  }
}

// Large enough that packing takes threads of its own.
void strain_packing() {
  for (int format : kFormats) {
    const Array<uint8_t> alone = packed(format, 4096, 1056, 6, 1);
    check(packed(format, 4096, 1056, 6, 4) == alone, "threads change a matrix");
  }
}

void strain_pools() {
  for (int i = 0; i < 200; ++i) nestling_pool_free(nestling_pool_new(1 + i % 5));
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 2;
  strain_pools();
  strain_packing();
  for (int format : kFormats) {
    strain_products(format);
    strain_steps(format, rounds);
  }
  std::puts("strained");
  return 0;
}
