// How a plan cuts columns and tokens. Splits and pieces, whose sums are added, depend on the problem alone; the number
// of tiles may depend on the number of threads.
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {

inline int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
inline int64_t round_up(int64_t value, int64_t multiple) { return divide_up(value, multiple) * multiple; }

// Two tasks per thread: a thread that falls behind then delays the pass less.
int64_t target_tasks();

// Cuts columns into about `count` pieces of whole panels.
Partition partition(int64_t columns, int64_t count, int64_t panel);

// The limit for a packed operand of rank x width floats: 512 KiB, half of a typical L2 cache of 1 MiB, which leaves
// room for activations.
constexpr int64_t kScratchFloats = 128 * 1024;

// At least `count` tiles, none of which is wider than the scratch limit allows.
Partition tiles_for_scratch(int64_t columns, int64_t rank, int64_t panel, int64_t count);

// Splits whose partial sums are added. They affect the rounding of the result, so they depend on the columns alone, not
// on M or the number of threads. The count is one per 512 columns; narrower matrices get one per 128 columns (two
// panels of AVX-512), up to four. A count above one is rounded up to an even number, which two threads share evenly.
Partition splits_for_sum(int64_t columns, int64_t panel);

// Tokens per stored sum of `rows` x `columns` outer products from which on these partial sums, which are written and
// read once, cost at most 9 % of the bytes that backward moves anyway up to rank 32, and 20 % above.
int64_t tokens_per_partial(const lily_problem &problem, int64_t rows, int64_t columns);

// The pieces of a sum of `rows` x `columns` outer products over tokens, in a pass that has `column_tasks` tasks without
// pieces. Such a sum is the gradient of a parameter, or D_g of one group: the cut depends on the number of these
// tokens, never on the number of threads.
TokenPieces token_pieces(const lily_problem &problem, int64_t rows, int64_t columns, int64_t column_tasks,
                         int64_t multiple);

}  // namespace lily::cpu
