// Executes plans: one implementation of EngineFunctions per engine, and the kernels that all engines share.
//
// From compute capability 9.0 on, a launch may start before the one before has ended (programmatic dependent launch):
// its blocks are then in place, and wait, when the last results arrive.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <span>
#include <utility>

#include "cuda/device.h"
#include "cuda/error.h"
#include "cuda/kernels/backward_hidden.cuh"
#include "cuda/kernels/cast.cuh"
#include "cuda/kernels/draw.cuh"
#include "cuda/kernels/form_u.cuh"
#include "cuda/kernels/forward_route.cuh"
#include "cuda/kernels/gradient.cuh"
#include "cuda/kernels/pool.cuh"
#include "cuda/launch/plan.h"

namespace lily::cuda {

inline Operand operand(const lily_matrix &matrix) {
  const auto begins_at = [&](int bytes) {
    return reinterpret_cast<uintptr_t>(matrix.data) % bytes == 0 &&
           matrix.pitch * dtype_bytes(matrix.dtype) % bytes == 0;
  };
  return {matrix.data, matrix.pitch, matrix.dtype, begins_at(16), begins_at(8)};
}

inline Output output(const lily_matrix &matrix) {
  const Operand read = operand(matrix);
  return {matrix.data, read.pitch, read.dtype, read.aligned16, matrix.accumulate, 0, {}};
}

// y or dx, to which tiles of elements of type T are added.
template <typename T>
Output output(const lily_matrix &matrix, int columns, const ListedRows &rows = {}) {
  Output result = output(matrix);
  result.stages =
      result.dtype == kDtype<T> && result.aligned16 && columns * sizeof(T) % 16 == 0 && rows.index == nullptr;
  result.rows = rows;
  return result;
}

// Dropout of x of a call of forward or backward.
template <typename Call>
Dropout dropout_of(const Call &call) {
  return {call.tokens.draw, call.problem.dropout};
}

// A contiguous matrix.
inline Operand contiguous(const void *data, int64_t columns, int32_t dtype) {
  return operand({const_cast<void *>(data), columns, dtype, 0});
}

inline Output contiguous_output(void *data, int64_t columns, int32_t dtype, bool accumulate = false) {
  return output({data, columns, dtype, accumulate});
}

// An array in the workspace; null if the plan has none.
template <typename T>
T *at(void *workspace, Offset offset) {
  return offset == kAbsent ? nullptr : reinterpret_cast<T *>(static_cast<char *>(workspace) + offset);
}

// The copy of an operand in the workspace, of elements of type T.
template <typename T>
Output cast_output(void *workspace, const CastPlan &cast) {
  return contiguous_output(at<T>(workspace, cast.offset), cast.pitch, kDtype<T>);
}

// What the main loops read: the copy if there is one.
template <typename T>
Operand cast_operand(void *workspace, const CastPlan &cast, const Operand &original) {
  return cast.casts ? cast_output<T>(workspace, cast).operand() : original;
}

inline void add_job(Cast &cast, CastJob job) {
  if (cast.count > 0) {
    const CastJob &last = cast.jobs[cast.count - 1];
    job.first_block = last.first_block + cast_blocks(last.rows, last.padded);
  }
  cast.jobs[cast.count++] = job;
}

// `rows` and `scale`: of the original.
template <typename T>
void add_cast(Cast &cast, void *workspace, const CastPlan &planned, const Operand &original,
              const ListedRows &rows = {}, const float *scale = nullptr) {
  if (!planned.casts) return;
  add_job(cast, {original, cast_output<T>(workspace, planned), static_cast<int>(planned.rows),
                 static_cast<int>(planned.columns), planned.pitch, rows, scale, 0});
}

// Adds the blocks that combine C.
inline void add_combine(Cast &cast, const Combine &combine, const Grid &grid) {
  cast.combine = combine;
  cast.combine_column_tiles = grid.x;
  cast.combine_blocks = static_cast<int>(grid.blocks());
}

// A kernel with its two entries.
template <typename Call>
struct ListKernel {
  void (*one)(Call);
  void (*list)(List<Call>);
  const char *name;
};

// Launches the kernels of one call, or of a list, in its stream, in order. All kernels except in roofs.cuh are
// launched here.
class Launcher {
 public:
  Launcher(lily_stream stream, const Device &device)
      : stream_(reinterpret_cast<cudaStream_t>(stream)),
        overlaps_(device.architecture >= 90 && stream_ != cudaStreamLegacy && stream_ != cudaStreamPerThread) {}

  template <typename Call>
  lily_status launch(void (*kernel)(Call), const char *name, dim3 blocks, int shared_bytes, const Call &call,
                     int threads = kThreads) {
    LILY_TRY(prepare_kernel(reinterpret_cast<const void *>(kernel), shared_bytes));
    // The first launch follows unknown work in the stream: it starts when all of that has ended.
    const bool follows = std::exchange(follows_, true);
    cudaLaunchAttribute dependent = {};
    dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    dependent.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream_;
    config.attrs = &dependent;
    config.numAttrs = follows && overlaps_ ? 1 : 0;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, call);
    return error == cudaSuccess ? LILY_OK : report(error, name);
  }

  template <typename Call>
  lily_status launch(void (*kernel)(Call), const char *name, const Launch &planned, const Call &call) {
    const Grid &grid = planned.grid;
    return launch(kernel, name, dim3(grid.x, grid.y, grid.z), planned.shared_bytes, call, planned.threads);
  }

  // The same step of several calls, whose parameters call_of(member) returns: one launch for all that fit into one.
  template <typename Call, typename CallOf>
  lily_status launch(const ListKernel<Call> &kernel, Members members, const CallOf &call_of) {
    static_assert(kMostParts<Call> >= 32);
    if (members.size() == 1) return launch(kernel.one, kernel.name, *members[0].launch, call_of(members[0]));
    for (; !members.empty(); members = members.subspan(std::min<size_t>(members.size(), kMostParts<Call>))) {
      List<Call> list;
      list.count = static_cast<int>(std::min<size_t>(members.size(), kMostParts<Call>));
      int blocks = 0, shared_bytes = 0, threads = 0;
      for (int i = 0; i < list.count; ++i) {
        const Launch &planned = *members[i].launch;
        const Grid &grid = planned.grid;
        list.calls[i] = call_of(members[i]);
        list.grids[i] = {grid.x, grid.y, grid.z};
        list.first_blocks[i] = blocks;
        blocks += static_cast<int>(grid.blocks());
        shared_bytes = std::max(shared_bytes, planned.shared_bytes);
        threads = std::max(threads, planned.threads);
      }
      LILY_TRY(launch(kernel.list, kernel.name, dim3(blocks), shared_bytes, list, threads));
    }
    return LILY_OK;
  }

 private:
  cudaStream_t stream_;
  // The kernels contain griddepcontrol (tiles/ptx.cuh): without it they would not wait. The default streams of CUDA,
  // which are ordered with others, stay as they are until somebody has tried the attribute in them.
  bool overlaps_;
  bool follows_ = false;  // another launch of the call
};

// Loads kernels that are not launched yet.
class KernelLoader {
 public:
  template <typename Call>
  void operator()(void (*kernel)(Call)) {
    if (status_ == LILY_OK) status_ = prepare_kernel(reinterpret_cast<const void *>(kernel), 0);
  }
  lily_status status() const { return status_; }

 private:
  lily_status status_ = LILY_OK;
};

// The calls of a list with their plans. `all_rows`: of the matrices in which their rows are scattered.
template <typename Call, typename Plan>
struct Calls {
  std::span<const Call> calls;
  const Plan *plans;
  int all_rows;
};
using ForwardCalls = Calls<lily_forward, ForwardPlan>;
using BackwardCalls = Calls<lily_backward, BackwardPlan>;

struct EngineFunctions {
  lily_status (*forward)(const ForwardCalls &list, Launcher &launcher);
  lily_status (*backward)(const BackwardCalls &list, Launcher &launcher);
  lily_status (*linear)(const lily_linear &call, const LinearPlan &plan, Launcher &launcher);
  void (*load)(KernelLoader &load);
};

extern const EngineFunctions kExactFunctions, kTf32Functions, kBfloat16Functions, kFloat16Functions;

lily_status launch_cast(const Launch &launch, const Cast &call, Launcher &launcher);
// Sets rows of a matrix to zero.
lily_status launch_clear(const lily_matrix &matrix, int columns, const ListedRows &rows, int count, Launcher &launcher);
lily_status launch_fold(const Fold &call, Launcher &launcher);
lily_status launch_ascend(const Ascend &call, Launcher &launcher);
lily_status launch_draw(const Draw &call, Launcher &launcher);

// The common kernels. Their templates are instantiated in one file.
extern const ListKernel<Cast> kCastKernel;
extern const ListKernel<ForwardRoute> kRouteKernel;
extern const ListKernel<FormU> kFormUKernel;
extern const ListKernel<Pool> kPoolKernel;
extern const ListKernel<BackwardHidden> kHiddenKernel;
extern const ListKernel<Reduce> kReduceKernel;

void load_common(KernelLoader &load);
void load_adamw(KernelLoader &load);

// Calls visit(row) with the row of the table that matches.
template <typename Table, typename Matches, typename Visit>
lily_status with_row_of(Table table, const Matches &matches, const Visit &visit) {
  lily_status status = LILY_OK;
  const bool found = with_row(table, matches, [&](auto row) { status = visit(row); });
  return found ? status : fail(LILY_ERROR_UNSUPPORTED, "the plan has a tile without a kernel");
}

// The same with the row that the plan names.
template <typename Table, typename Visit>
lily_status with_tile(const Tile &tile, const Visit &visit) {
  return with_row_of(Table{}, [&](auto row) { return tile.is(row); }, visit);
}

}  // namespace lily::cuda
