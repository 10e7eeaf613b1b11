/**
 * Mistakes that a kernel could have, each a patch of one place in native/cuda. The suite must notice every one of them.
 * `find` must occur exactly once in its file; it spans two lines if one would be ambiguous.
 */
export interface Mutation {
  readonly file: string
  readonly what: string
  readonly find: string
  readonly replace: string
}

const BARRIER = '__syncthreads();\n'

export const mutations: readonly Mutation[] = [
  // ---- Tiles and their products ----
  {
    file: 'tiles/stage.cuh',
    what: 'a tile includes the row after its last one',
    find: 'const int valid = row < window.row_end ?',
    replace: 'const int valid = row <= window.row_end ?',
  },
  {
    file: 'tiles/stage.cuh',
    what: 'the row after the last one is written',
    find: 'if (row >= window.row_end || column >= window.column_end) continue;',
    replace: 'if (row > window.row_end || column >= window.column_end) continue;',
  },
  {
    file: 'kernels/shrink.cuh',
    what: 'half of every K tile is missing from the sum',
    find: 'add(half[0], half[1]);',
    replace: '',
  },
  {
    file: 'kernels/shrink.cuh',
    what: 'no barrier between the copies and the product',
    find: `copy_wait<Tile::kStages - 2>();\n      ${BARRIER}`,
    replace: 'copy_wait<Tile::kStages - 2>();\n',
  },
  {
    file: 'kernels/shrink.cuh',
    what: 'the copies are not waited for',
    find: 'copy_wait<Tile::kStages - 2>();',
    replace: 'copy_wait<Tile::kStages - 1>();',
  },
  {
    file: 'kernels/strip.cuh',
    what: 'no barrier before a tile is written',
    find: `clear(sum);\n          ${BARRIER}`,
    replace: 'clear(sum);\n',
  },
  {
    file: 'kernels/strip.cuh',
    what: 'the old output is added twice',
    find: '    first += old.x;\n',
    replace: '    first += 2 * old.x;\n',
  },
  {
    file: 'kernels/strip.cuh',
    what: 'no barrier before the copies of the next tile',
    find: '__syncthreads();  // the next fill writes to what this step, or the fill before, has used',
    replace: '',
  },
  {
    file: 'kernels/strip.cuh',
    what: 'w is not waited for',
    find: 'copy_wait<0>();  // w is part of the last group',
    replace: 'copy_wait<1>();',
  },
  // ---- Operands of another type, or with rows that are not aligned ----
  {
    file: 'kernels/cast.cuh',
    what: 'the last elements of a row are not cast',
    find: 'vec4_per_row = (job.columns + 3) / 4;',
    replace: 'vec4_per_row = max(job.columns / 4, 1);',
  },
  {
    file: 'kernels/cast.cuh',
    what: 'every vector of a thread is its first',
    find: 'column, column + 4, value[n]);',
    replace: 'column, column + 4, value[0]);',
  },
  {
    file: 'kernels/cast.cuh',
    what: 'the first block of a matrix casts the one before',
    find: 'static_cast<int>(blockIdx.x) >= call.jobs',
    replace: 'static_cast<int>(blockIdx.x) > call.jobs',
  },
  {
    file: 'launch/launch_forward.cuh',
    what: 'the copy of A is not read',
    find: 'cast_operand<Scalar>(call_.workspace, plan_.a_cast, operand(call_.a))',
    replace: 'operand(call_.a)',
  },
  {
    file: 'tiles/stage.cuh',
    what: 'an old output that is not aligned is loaded one column to the left',
    find: 'min(i % kColumns, columns - 1)',
    replace: 'max(min(i % kColumns, columns - 1) - 1, 0)',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'a gradient that is not aligned is not added to the old one',
    find: '* scale + to_float(old[n])',
    replace: '* scale',
  },
  // ---- dh and dl ----
  {
    file: 'kernels/d_hidden.cuh',
    what: "relu' is 1 at 0",
    find: 'if (!(h[v] > 0)) value[n][v] = 0;',
    replace: 'if (!(h[v] >= 0)) value[n][v] = 0;',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'dropped tokens have a router gradient',
    find: 'if (router.mask == nullptr || router.mask[token + t] != 0) {',
    replace: 'if (true) {',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'dl has the wrong sign',
    find: 'd_weights[e] - d_weights[j], d_logit)',
    replace: 'd_weights[j] - d_weights[e], d_logit)',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'dl is not divided by the number of kept tokens',
    find: 'if (router.averages)',
    replace: 'if (false)',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'no barrier before dl is read',
    find: `call.d_logits[offset + i] = d_logit;\n  }\n  ${BARRIER}`,
    replace: 'call.d_logits[offset + i] = d_logit;\n  }\n',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'q omits the last partial sum',
    find: 'first + i < partials ?',
    replace: 'first + i < partials - 1 ?',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'the last token of a tile has no dh',
    find: 'if (first + n * step < count)\n',
    replace: 'if (first + n * step < count - 1)\n',
  },
  {
    file: 'kernels/backward_hidden.cuh',
    what: 'every token of a tile has dw of its first sequence',
    find: 'scratch.row[t] = has_gradient ? row : -1;',
    replace: 'scratch.row[t] = has_gradient ? 0 : -1;',
  },
  {
    file: 'kernels/backward_hidden.cuh',
    what: 'dw of one sequence is used for the tiles of all later ones',
    find: 'groups.group[0] != added)',
    replace: 'added < 0)',
  },
  {
    file: 'kernels/backward_hidden.cuh',
    what: 'dw of a sequence omits its last slice',
    find: 'slice < slices; ++slice) sum',
    replace: 'slice < slices - 1; ++slice) sum',
  },
  {
    file: 'kernels/backward_hidden.cuh',
    what: 'no barrier between the slices and their sum',
    find: `* 5 + v] = share[v];\n      }\n      ${BARRIER}`,
    replace: '* 5 + v] = share[v];\n      }\n',
  },
  {
    file: 'kernels/backward_hidden.cuh',
    what: 'no barrier before the next tile overwrites dl',
    find: '__syncthreads();  // the next tile uses the same scratch memory',
    replace: '',
  },
  // ---- Forward ----
  {
    file: 'kernels/forward_shrink.cuh',
    what: 'dropped tokens count in the mean',
    find: 'if (route.mask == nullptr || route.mask[token + t] != 0) sum +=',
    replace: 'sum +=',
  },
  {
    file: 'kernels/forward_shrink.cuh',
    what: 'the logits omit the last element of h',
    find: 'for (int k = 0; k < route.rank; ++k)',
    replace: 'for (int k = 0; k < route.rank - 1; ++k)',
  },
  {
    file: 'kernels/forward_shrink.cuh',
    what: 'no barrier between the router and the logits',
    find: `router[e * router_pitch + k + v] = value[v];\n    }\n  });\n  ${BARRIER}`,
    replace: 'router[e * router_pitch + k + v] = value[v];\n    }\n  });\n',
  },
  {
    file: 'kernels/forward_route.cuh',
    what: 'the last token of a tile has no logits',
    find: 'if (lane == 0 && t < count)',
    replace: 'if (lane == 0 && t < count - 1)',
  },
  {
    file: 'kernels/forward_route.cuh',
    what: 'the logits read h instead of the router',
    find: 'convert<R>(r_raw[i], r);',
    replace: 'convert<H>(h_raw[i][0], r);',
  },
  {
    file: 'kernels/pool.cuh',
    what: 'the pool omits the last token of a sequence',
    find: 'inside = first + i * kStep < end,',
    replace: 'inside = first + i * kStep < end - 1,',
  },
  {
    file: 'kernels/pool.cuh',
    what: 'dropped tokens count in the mean',
    find: 'adds = inside && (keeps[i] != 0 || !from.drops)',
    replace: 'adds = inside',
  },
  {
    file: 'kernels/pool.cuh',
    what: 'dropped tokens are counted as kept',
    find: 'inside && keeps[i] != 0 ? sum[4] + 1',
    replace: 'inside ? sum[4] + 1',
  },
  {
    file: 'kernels/pool.cuh',
    what: 'the pool omits the last slice',
    find: 'slice < count; ++slice) total',
    replace: 'slice < count - 1; ++slice) total',
  },
  {
    file: 'kernels/forward_expand.cuh',
    what: 'every block combines the first columns of C',
    find: '(tile, call.experts, weights, row, column);',
    replace: '(tile, call.experts, weights, row, 0);',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'u has the weight of the next expert, if an expert begins within a vector',
    find: 'weights[t * call.experts + e] : 0.0f',
    replace: 'weights[t * call.experts + min(e + 1, call.experts - 1)] : 0.0f',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'u has the weight of the first expert, if experts begin with a vector',
    find: 'inside ? weights[t * call.experts + expert]',
    replace: 'inside ? weights[t * call.experts]',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'u is formed from the tile of tokens before the next one',
    find: 'form_u(step + 1);',
    replace: 'form_u(step / k_tiles * k_tiles + (step + 1) % k_tiles);',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'the last tiles of B are not waited for',
    find: 'copy_wait<0>();\n    else\n      copy_wait<1>();',
    replace: 'copy_wait<1>();\n    else\n      copy_wait<2>();',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'a streamed tile of B is that of the tile of tokens before',
    find: 'fill_b(next % k_tiles, next % Tile::kRhsStages)',
    replace: 'fill_b(step % k_tiles, next % Tile::kRhsStages)',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'no barrier before y is written',
    find: `clear(sum);\n    ${BARRIER}`,
    replace: 'clear(sum);\n',
  },
  {
    file: 'kernels/forward_mix.cuh',
    what: 'the weights are those of the first token of a tile',
    find: 'weights.of(token + i / weights.experts)',
    replace: 'weights.of(token)',
  },
  {
    file: 'tiles/stage.cuh',
    what: 'rows of h miss their last vector',
    find: 'const int vectors = pitch / kVector;',
    replace: 'const int vectors = max(pitch / kVector - 1, 1);',
  },
  {
    file: 'kernels/combine.cuh',
    what: 'every expert has the first weight',
    find: 'weights[is_expert ? first + j : 0]',
    replace: 'weights[0]',
  },
  {
    file: 'kernels/combine.cuh',
    what: 'the last expert is added again if the number of experts is not a multiple of four',
    find: 'value[i][v] = is_expert && k + i * step < row_end ? fmaf',
    replace: 'value[i][v] = k + i * step < row_end ? fmaf',
  },
  {
    file: 'kernels/combine.cuh',
    what: 'dropped tokens are counted as kept',
    find: 'count += count_bytes(vector.x) +',
    replace: 'count += 4 +',
  },
  {
    file: 'kernels/combine.cuh',
    what: 'the last row of a tile of C is not written',
    find: '{row, call.experts.rank, column, call.experts.columns});',
    replace: '{row, call.experts.rank - 1, column, call.experts.columns});',
  },
  {
    file: 'kernels/forward_decode.cuh',
    what: 'the sum omits the last split of d',
    find: 'split < call.splits; ++split',
    replace: 'split < call.splits - 1; ++split',
  },
  {
    file: 'kernels/forward_decode.cuh',
    what: 'the pool omits the last slice of a sequence',
    find: 'slice < pool_slices(begin, end); ++slice',
    replace: 'slice < pool_slices(begin, end) - 1; ++slice',
  },
  {
    file: 'kernels/forward_decode.cuh',
    what: 'u is not weighted',
    find: 'token_weights[group[t] * token_weights_pitch + j / rank] *',
    replace: '1.0f *',
  },
  {
    file: 'kernels/forward_decode.cuh',
    what: 'no barrier between u and the product',
    find: `copy_wait<Tile::kStages - 1>();\n    ${BARRIER}`,
    replace: 'copy_wait<Tile::kStages - 1>();\n',
  },
  // ---- Large ranks ----
  {
    file: 'kernels/large.cuh',
    what: 'a product omits the last steps of its sum',
    find: 'min(remaining, Tile::kBlockK)',
    replace: 'min(remaining, Tile::kBlockK) - Tile::Engine::kStepK',
  },
  {
    file: 'kernels/large.cuh',
    what: 'the copies are not waited for',
    find: 'copy_wait<Tile::kStages - 2>();',
    replace: 'copy_wait<Tile::kStages - 1>();',
  },
  {
    file: 'kernels/large_shrink.cuh',
    what: 'q is not scaled',
    find: '(product + k - row, call.scale,',
    replace: '(product + k - row, 1.0f,',
  },
  {
    file: 'kernels/large.cuh',
    what: 'no barrier before the result is written',
    find: `add_pair(pair, first, second, output.accumulate);\n  });\n  ${BARRIER}`,
    replace: 'add_pair(pair, first, second, output.accumulate);\n  });\n',
  },
  {
    file: 'kernels/large.cuh',
    what: 'the slices of the old result are loaded into a slot that is in use',
    find: 'return large_slot<Tile>(shared, steps + slice);',
    replace: 'return large_slot<Tile>(shared, steps + slice + 1);',
  },
  {
    file: 'kernels/large.cuh',
    what: 'the first copies of the next tile are those of the same tile',
    find: 'next == i ? tile : window(next)',
    replace: 'tile',
  },
  {
    file: 'kernels/large.cuh',
    what: 'the old output is loaded for the first tile alone',
    find: 'if (step == Tile::kStages - 1) fill_slice',
    replace: 'if (step == Tile::kStages - 2) fill_slice',
  },
  {
    file: 'kernels/large.cuh',
    what: 'each tile begins with the first slot of the ring',
    find: 'sum, shared, i * steps, i > 0, depth',
    replace: 'sum, shared, 0, i > 0, depth',
  },
  {
    file: 'kernels/large.cuh',
    what: 'a partial stride of columns is left out',
    find: '(columns - n + Tile::kStrideN - 1) / Tile::kStrideN',
    replace: '(columns - n) / Tile::kStrideN',
  },
  {
    file: 'kernels/large_strip.cuh',
    what: 'every block computes the first split of tokens',
    find: 'at.split = index / call.column_tiles % call.splits;',
    replace: 'at.split = 0;',
  },
  // ---- Backward ----
  {
    file: 'kernels/backward_dy.cuh',
    what: 'q is not scaled',
    find: 'for (int v = 0; v < 4; ++v) value[v] *= call.scale;',
    replace: '',
  },
  {
    file: 'kernels/backward_dy.cuh',
    what: 'q is not scaled where dh is completed',
    find: '(product + k - first_row, call.scale,',
    replace: '(product + k - first_row, 1.0f,',
  },
  {
    file: 'kernels/backward_dy.cuh',
    what: 'dl of one pooling group is not stored',
    find: 'const bool stores = first_row == 0;',
    replace: 'const bool stores = false;',
  },
  {
    file: 'kernels/backward_dy.cuh',
    what: 'every combine block computes the first columns of C',
    find: 'weights, index % call.combine_column_tiles,',
    replace: 'weights, 0,',
  },
  {
    file: 'kernels/backward_dy.cuh',
    what: 'an expert that begins within a tile of rows resets q',
    find: 'const bool begins = k >= row;',
    replace: 'const bool begins = true;',
  },
  {
    file: 'kernels/backward_dy.cuh',
    what: 'every column block computes the first split of tokens',
    find: 'const StripIndex at = {index % call.column_tiles, split, index / call.column_tiles};',
    replace: 'const StripIndex at = {index % call.column_tiles, 0, index / call.column_tiles};',
  },
  {
    file: 'kernels/backward_dy.cuh',
    what: 'no barrier between a product and the next',
    find: '__syncthreads();  // the next product reuses the memory; other warps still read it',
    replace: '',
  },
  {
    file: 'kernels/backward_dy_once.cuh',
    what: 'the last token of a tile has no q',
    find: 'const int count = min(Tile::kBlockM, end - begin - tile * Tile::kBlockM);',
    replace: 'const int count = min(Tile::kBlockM, end - begin - tile * Tile::kBlockM) - 1;',
  },
  {
    file: 'kernels/backward_dy_once.cuh',
    what: 'no barrier before the partial sums of q are added',
    find: `first, second);\n    });\n    ${BARRIER}`,
    replace: 'first, second);\n    });\n',
  },
  {
    file: 'kernels/backward_x.cuh',
    what: 'dR omits the last token of a split',
    find: 'end = min(begin + call.split_tokens, call.tokens);',
    replace: 'end = min(begin + call.split_tokens, call.tokens) - 1;',
  },
  {
    file: 'kernels/backward_x.cuh',
    what: 'every block reads the first columns of A',
    find: 'call.strip.lhs.columns, row, column, call.strip.columns);',
    replace: 'call.strip.lhs.columns, row, 0, call.strip.columns);',
  },
  {
    file: 'kernels/gradient.cuh',
    what: "every expert's gradient is written to the first expert's rows",
    find: 'first = static_cast<int64_t>(e) * target.rows;',
    replace: 'first = 0;',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'a surplus load of an old gradient reads a row that another thread writes',
    find: '(r < rows ? r : first) * out.pitch',
    replace: 'min(r, rows - 1) * out.pitch',
  },
  {
    file: 'kernels/gradient.cuh',
    what: "the old gradient of every expert is the first expert's",
    find: 'min(first + i, experts - 1) * expert_stride',
    replace: '0 * expert_stride',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'dw omits the last warp',
    find: 'warp < Tile::kWarps; ++warp) total',
    replace: 'warp < Tile::kWarps - 1; ++warp) total',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'dw of every expert is that of the first of its four',
    find: 'min(expert + j, experts.experts - 1) * experts.rank',
    replace: 'expert * experts.rank',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'reduce omits the last partial sum',
    find: 'for (int partial = 0; partial < job.partial_count; ++partial) {',
    replace: 'for (int partial = 0; partial < job.partial_count - 1; ++partial) {',
  },
  {
    file: 'kernels/gradient.cuh',
    what: "reduce does not multiply by the experts' weights",
    find: 'kHasExperts ? job.scale * job.weights[first + i] : job.scale;',
    replace: 'job.scale;',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'fold omits the last group',
    find: 'for (int64_t g = 0; g < layer.groups; ++g)',
    replace: 'for (int64_t g = 0; g < layer.groups - 1; ++g)',
  },
  // ---- Groups without a kept token, whose x and dy may be NaN ----
  {
    file: 'kernels/strip.cuh',
    what: 'the rows of a group without a kept token are not cleared',
    find: 'if (operands.with_gradient.weights != nullptr) {',
    replace: 'if (false) {',
  },
  {
    file: 'kernels/strip.cuh',
    what: 'the rows of x of a group without a kept token are not cleared',
    find: '        if (has_outer)\n          clear_rows',
    replace: '        if (false)\n          clear_rows',
  },
  {
    file: 'kernels/backward_dy_once.cuh',
    what: 'the rows of a group without a kept token are not cleared',
    find: 'if (call.with_gradient.weights != nullptr) {',
    replace: 'if (false) {',
  },
  {
    file: 'kernels/large_strip.cuh',
    what: 'D and dA have a share of a group without a kept token',
    find: 'call.with_gradient.none() ? 0 : max',
    replace: 'max',
  },
  {
    file: 'kernels/d_hidden.cuh',
    what: 'dh has a share of a group without a kept token',
    find: 'if (call.with_gradient.weights != nullptr) {',
    replace: 'if (false) {',
  },
  {
    file: 'kernels/backward_x.cuh',
    what: 'dR has a share of masked tokens',
    find: ' && d_logit != 0 ?',
    replace: ' ?',
  },
  // ---- Order of launches ----
  {
    file: 'tiles/ptx.cuh',
    what: 'no kernel waits for the launch before it',
    find: 'asm volatile("griddepcontrol.wait;" ::: "memory");',
    replace: '',
  },
  {
    file: 'kernels/forward_expand.cuh',
    what: 'it does not wait for the kernel that writes h',
    find: 'wait_for_previous_launch();',
    replace: '',
  },
  {
    file: 'kernels/forward_decode.cuh',
    what: 'the partial sums of h are read before the wait',
    find: '  wait_for_previous_launch();\n  sum_partials<Engine>(call, product, pitch);',
    replace: '  sum_partials<Engine>(call, product, pitch);\n  wait_for_previous_launch();',
  },
  {
    file: 'kernels/backward_x.cuh',
    what: 'the blocks of dR do not wait',
    find: '  wait_for_previous_launch();\n  if (index >= call.expand_blocks + call.outer_blocks) {',
    replace: '  if (index < call.expand_blocks + call.outer_blocks) wait_for_previous_launch(); else {',
  },
  {
    file: 'kernels/gradient.cuh',
    what: 'the last block of the sums of gradients may return without waiting',
    find: '  wait_for_previous_launch();\n  int job_index = 0;',
    replace: '  if (blockIdx.x + 1 < gridDim.x) wait_for_previous_launch();\n  int job_index = 0;',
  },
]
