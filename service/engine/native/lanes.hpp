// How many lanes a vector has, whatever the registers are.
#pragma once

#include <cstdint>
#include <cstring>

namespace nestling {

constexpr int kLanes = 16;

}  // namespace nestling
