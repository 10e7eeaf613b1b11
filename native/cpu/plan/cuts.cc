#include "cpu/plan/cuts.h"

#include <algorithm>

#include "cpu/thread_pool.h"

namespace lily::cpu {

int64_t target_tasks() { return 2 * static_cast<int64_t>(thread_count()); }

Partition partition(int64_t columns, int64_t count, int64_t panel) {
  const int64_t width = round_up(divide_up(columns, std::max<int64_t>(count, 1)), panel);
  return {columns, width, divide_up(columns, width)};
}

Partition tiles_for_scratch(int64_t columns, int64_t rank, int64_t panel, int64_t count) {
  const int64_t widest = std::max(panel, kScratchFloats / rank / panel * panel);
  return partition(columns, std::max(divide_up(columns, widest), count), panel);
}

Partition splits_for_sum(int64_t columns, int64_t panel) {
  const int64_t count = std::max(divide_up(columns, 512), std::min<int64_t>(4, columns / 128));
  return partition(columns, count <= 1 ? 1 : round_up(count, 2), panel);
}

int64_t tokens_per_partial(const lily_problem &problem, int64_t rows, int64_t columns) {
  const int64_t percent = problem.rank <= 32 ? 9 : 20, bytes = 2 * 4 * rows * columns;
  return divide_up(bytes * 100, percent * (problem.d_out + 2 * problem.d_in) * dtype_bytes(problem.activation_dtype));
}

// Tasks that a large pass offers where the problem is large enough: two per thread of 64 threads.
constexpr int64_t kMostTasks = 128;

TokenPieces token_pieces(const lily_problem &problem, int64_t rows, int64_t columns, int64_t column_tasks,
                         int64_t multiple) {
  return {
      .most = divide_up(kMostTasks, column_tasks),
      .shortest = std::max<int64_t>(512, tokens_per_partial(problem, rows, columns)),
      .multiple = multiple,
  };
}

}  // namespace lily::cpu
