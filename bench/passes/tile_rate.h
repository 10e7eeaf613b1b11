#pragma once

#include <stdint.h>

namespace lily::cpu {

// Operations per second of all threads together.
double measure_tile_rate(int64_t threads);

}  // namespace lily::cpu
