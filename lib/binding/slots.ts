/**
 * How a call is written down: its numbers and its operands, and in which order they are passed to the binding.
 *
 * Generated from native/binding/descriptor.h by scripts/generate-slots.js. Do not edit: change that file and run
 * `node scripts/generate-slots.js`.
 */

/** Every operation with its fields and slots, and the fields and slots of its items. */
export const operation = {
  forward: 0,
  backward: 1,
  linear: 2,
  pack: 3,
  matmul: 4,
  attention: 5,
  attentionBackward: 6,
  elementwise: 7,
  fold: 8,
  draw: 9,
  adamw: 10,
  forwardRows: 11,
  backwardRows: 12,
} as const

/** The backends by number. */
export const backend = { cpu: 0, cuda: 1 } as const

/** `lily_status`. */
export const status = {
  ok: 0,
  errorArgument: 1,
  errorUnsupported: 2,
  errorUnavailable: 3,
  errorOutOfMemory: 4,
  errorDevice: 5,
} as const

/** `lily_dtype`. */
export const dtype = { float32: 0, bfloat16: 1, float16: 2, uint8: 3, int32: 4 } as const

/** `lily_routing`. */
export const routing = { batch: 0, sequence: 1, token: 2, uniform: 3, fixed: 4, none: 5, learned: 6 } as const

/** `lily_pool`. */
export const pool = { probabilities: 0, logits: 1 } as const

/** `lily_activation`. */
export const activation = { none: 0, relu: 1 } as const

/** `lily_precision`. */
export const precision = { default: 0, high: 1, tf32: 2 } as const

/** `lily_roof`. */
export const roof = { multiplyAdd: 0, read: 1, update: 2, bfloat16: 3, product: 4 } as const

/**
 * Numbers that every call begins with. The call runs in `stream`; its workspace belongs to `memoryStream`, a stream of the
 * package.
 */
export const placementFields = { operation: 0, backend: 1, device: 2, stream: 3, memoryStream: 4 } as const

/** Numbers of a forward or backward call. */
export const adapterFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  routing: 5,
  pool: 6,
  activation: 7,
  precision: 8,
  activationDtype: 9,
  parameterDtype: 10,
  tokens: 11,
  dIn: 12,
  dOut: 13,
  rank: 14,
  experts: 15,
  groups: 16,
  scaling: 17,
  dropout: 18,
} as const

/**
 * Numbers of calls over disjoint rows of one x: many adapters in one call. x has `tokens` rows, `listed` of them
 * belong to the calls, and the operand `index` has `indices` elements.
 */
export const rowsFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  precision: 5,
  activationDtype: 6,
  parameterDtype: 7,
  tokens: 8,
  dIn: 9,
  dOut: 10,
  listed: 11,
  indices: 12,
} as const

/** Numbers of one of these calls. Its `count` rows begin at `first`, or, if `first` is -1, the operand `index` lists them. */
export const rowsItemFields = {
  routing: 0,
  pool: 1,
  activation: 2,
  rank: 3,
  experts: 4,
  groups: 5,
  scaling: 6,
  count: 7,
  first: 8,
} as const

/** Numbers of a call of a frozen linear layer, and of the packing of its weight. */
export const linearFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  transposed: 5,
  precision: 6,
  activationDtype: 7,
  parameterDtype: 8,
  tokens: 9,
  dIn: 10,
  dOut: 11,
} as const

/** Numbers of a batched matrix product: a has matrices along the outer batches if aOuter is 1, and one if it is 0; and so on. */
export const matmulFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  outer: 5,
  inner: 6,
  aOuter: 7,
  aInner: 8,
  bOuter: 9,
  bInner: 10,
  m: 11,
  k: 12,
  n: 13,
  transposeA: 14,
  transposeB: 15,
  precision: 16,
  activationDtype: 17,
} as const

/** Numbers of attention, forward and backward. */
export const attentionFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  batch: 5,
  tokens: 6,
  keys: 7,
  heads: 8,
  dHead: 9,
  scale: 10,
  causal: 11,
} as const

/** Numbers of a function of m x n elements: a has m rows if aRows is 1, and one if it is 0; and so on. */
export const elementwiseFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  function: 5,
  m: 6,
  n: 7,
  aRows: 8,
  aColumns: 9,
  bRows: 10,
  bColumns: 11,
  scale: 12,
} as const

/** Numbers of a fold. */
export const foldFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  dOut: 5,
  rank: 6,
  experts: 7,
} as const

/** Numbers of a step of AdamW. */
export const adamwFields = {
  operation: 0,
  backend: 1,
  device: 2,
  stream: 3,
  memoryStream: 4,
  step: 5,
  beta1: 6,
  beta2: 7,
  eps: 8,
  maxNorm: 9,
} as const

/** Numbers of one parameter. */
export const adamwItemFields = { lr: 0, weightDecay: 1 } as const

/** Numbers of one operand: rows x columns elements, `pitch` of them from one row to the next. */
export const slotFields = { byteOffset: 0, rows: 1, columns: 2, pitch: 3, dtype: 4, access: 5 } as const

/** What a call does with an operand. `none`: it is not given. `add`: the call adds to the old contents. */
export const access = { none: 0, read: 1, write: 2, add: 3 } as const

/** Names of sizes and types of operands in the tables, forward and backward first. docs/math.md has the symbols. */
export const size = {
  one: 0,
  tokens: 1,
  dIn: 2,
  dOut: 3,
  rank: 4,
  experts: 5,
  groups: 6,
  offsets: 7,
  bRows: 8,
  bColumns: 9,
  partials: 10,
  partial: 11,
  routerColumns: 12,
  four: 13,
  depth: 14,
  width: 15,
  packed: 16,
  rows: 17,
  aRows: 18,
  aColumns: 19,
  batch: 20,
  keys: 21,
  queryRows: 22,
  keyRows: 23,
  headColumns: 24,
  headRows: 25,
  statistics: 26,
  elements: 27,
  listed: 28,
  indices: 29,
} as const

/** Name, rows, columns, kind of type, and what the call does with an operand. */
export type Row = readonly [
  name: string,
  rows: keyof typeof size,
  columns: keyof typeof size,
  type: 'activation' | 'parameter' | 'gradient' | 'hidden' | 'float32' | 'uint8' | 'int32' | 'any',
  use: 'read' | 'output' | 'update' | 'copy',
]

export const forwardSlots = [
  ['x', 'tokens', 'dIn', 'activation', 'read'],
  ['a', 'rank', 'dIn', 'parameter', 'read'],
  ['router', 'experts', 'routerColumns', 'parameter', 'read'],
  ['b', 'bRows', 'bColumns', 'parameter', 'read'],
  ['y', 'tokens', 'dOut', 'activation', 'output'],
  ['hidden', 'tokens', 'rank', 'hidden', 'output'],
  ['probabilities', 'tokens', 'experts', 'float32', 'output'],
  ['weights', 'groups', 'experts', 'float32', 'update'],
  ['mask', 'one', 'tokens', 'uint8', 'read'],
  ['sequenceOffsets', 'one', 'offsets', 'int32', 'copy'],
  ['uncheckedOffsets', 'one', 'offsets', 'int32', 'read'],
  ['draw', 'one', 'four', 'int32', 'read'],
] as const

export const backwardSlots = [
  ['dy', 'tokens', 'dOut', 'activation', 'read'],
  ['x', 'tokens', 'dIn', 'activation', 'read'],
  ['a', 'rank', 'dIn', 'parameter', 'read'],
  ['router', 'experts', 'routerColumns', 'parameter', 'read'],
  ['b', 'bRows', 'bColumns', 'parameter', 'read'],
  ['hidden', 'tokens', 'rank', 'hidden', 'read'],
  ['probabilities', 'tokens', 'experts', 'float32', 'read'],
  ['weights', 'groups', 'experts', 'float32', 'read'],
  ['mask', 'one', 'tokens', 'uint8', 'read'],
  ['sequenceOffsets', 'one', 'offsets', 'int32', 'copy'],
  ['dx', 'tokens', 'dIn', 'activation', 'output'],
  ['da', 'rank', 'dIn', 'gradient', 'output'],
  ['dRouter', 'experts', 'routerColumns', 'gradient', 'output'],
  ['db', 'bRows', 'bColumns', 'gradient', 'output'],
  ['dWeights', 'groups', 'experts', 'float32', 'output'],
  ['deferredDb', 'partials', 'partial', 'float32', 'output'],
  ['draw', 'one', 'four', 'int32', 'read'],
] as const

/** x is dy, and y is dx, if the call is transposed. */
export const linearSlots = [
  ['x', 'tokens', 'depth', 'activation', 'read'],
  ['weight', 'dOut', 'dIn', 'parameter', 'read'],
  ['packed', 'one', 'packed', 'float32', 'read'],
  ['bias', 'one', 'width', 'gradient', 'read'],
  ['y', 'tokens', 'width', 'activation', 'output'],
] as const

export const packSlots = [
  ['weight', 'dOut', 'dIn', 'parameter', 'read'],
  ['packed', 'one', 'packed', 'float32', 'output'],
] as const

/** The matrices of an operand, one after the other. */
export const matmulSlots = [
  ['a', 'aRows', 'aColumns', 'activation', 'read'],
  ['b', 'bRows', 'bColumns', 'activation', 'read'],
  ['bias', 'one', 'width', 'activation', 'read'],
  ['y', 'rows', 'width', 'activation', 'output'],
] as const

export const attentionSlots = [
  ['q', 'queryRows', 'headColumns', 'activation', 'read'],
  ['k', 'keyRows', 'headColumns', 'activation', 'read'],
  ['v', 'keyRows', 'headColumns', 'activation', 'read'],
  ['mask', 'batch', 'keys', 'uint8', 'read'],
  ['y', 'queryRows', 'headColumns', 'activation', 'output'],
  ['statistics', 'headRows', 'statistics', 'float32', 'output'],
] as const

export const attentionBackwardSlots = [
  ['dy', 'queryRows', 'headColumns', 'activation', 'read'],
  ['q', 'queryRows', 'headColumns', 'activation', 'read'],
  ['k', 'keyRows', 'headColumns', 'activation', 'read'],
  ['v', 'keyRows', 'headColumns', 'activation', 'read'],
  ['mask', 'batch', 'keys', 'uint8', 'read'],
  ['y', 'queryRows', 'headColumns', 'activation', 'read'],
  ['statistics', 'headRows', 'statistics', 'float32', 'read'],
  ['dq', 'queryRows', 'headColumns', 'activation', 'output'],
  ['dk', 'keyRows', 'headColumns', 'activation', 'output'],
  ['dv', 'keyRows', 'headColumns', 'activation', 'output'],
] as const

export const elementwiseSlots = [
  ['a', 'aRows', 'aColumns', 'float32', 'read'],
  ['b', 'bRows', 'bColumns', 'float32', 'read'],
  ['y', 'rows', 'width', 'float32', 'output'],
] as const

export const foldSlots = [['db', 'bRows', 'bColumns', 'any', 'output']] as const

/** The matrices of one layer, and their weights; without them there is one matrix for each expert. */
export const foldItemSlots = [
  ['partials', 'partials', 'partial', 'float32', 'read'],
  ['weights', 'partials', 'experts', 'float32', 'read'],
] as const

export const drawSlots = [
  ['state', 'one', 'four', 'int32', 'update'],
  ['draw', 'one', 'four', 'int32', 'output'],
] as const

export const adamwSlots = [
  ['norm', 'one', 'one', 'float32', 'output'],
  ['skipped', 'one', 'one', 'float32', 'update'],
] as const

export const adamwItemSlots = [
  ['value', 'one', 'elements', 'any', 'update'],
  ['grad', 'one', 'elements', 'any', 'read'],
  ['expAvg', 'one', 'elements', 'float32', 'update'],
  ['expAvgSq', 'one', 'elements', 'float32', 'update'],
] as const

/**
 * `index`: the rows of every call, call by call and ascending in each; then, of each call with sequences (sequence routing,
 * and fixed routing with another number of groups than 1), groups + 1 offsets from 0 to its count; then the rows that no call
 * has. `mask`, which calls with another routing than batch and sequence ignore, and `scale` have one element for each of the
 * first `listed` elements of `index`.
 */
export const forwardRowsSlots = [
  ['x', 'tokens', 'dIn', 'activation', 'read'],
  ['y', 'tokens', 'dOut', 'activation', 'output'],
  ['index', 'one', 'indices', 'int32', 'copy'],
  ['mask', 'one', 'listed', 'uint8', 'read'],
  ['scale', 'one', 'listed', 'float32', 'read'],
] as const

/** `tokens` of a call is its count. */
export const forwardRowsItemSlots = [
  ['a', 'rank', 'dIn', 'parameter', 'read'],
  ['router', 'experts', 'routerColumns', 'parameter', 'read'],
  ['b', 'bRows', 'bColumns', 'parameter', 'read'],
  ['hidden', 'tokens', 'rank', 'hidden', 'output'],
  ['probabilities', 'tokens', 'experts', 'float32', 'output'],
  ['weights', 'groups', 'experts', 'float32', 'update'],
] as const

export const backwardRowsSlots = [
  ['dy', 'tokens', 'dOut', 'activation', 'read'],
  ['x', 'tokens', 'dIn', 'activation', 'read'],
  ['dx', 'tokens', 'dIn', 'activation', 'output'],
  ['index', 'one', 'indices', 'int32', 'copy'],
  ['mask', 'one', 'listed', 'uint8', 'read'],
  ['scale', 'one', 'listed', 'float32', 'read'],
] as const

export const backwardRowsItemSlots = [
  ['a', 'rank', 'dIn', 'parameter', 'read'],
  ['router', 'experts', 'routerColumns', 'parameter', 'read'],
  ['b', 'bRows', 'bColumns', 'parameter', 'read'],
  ['hidden', 'tokens', 'rank', 'hidden', 'read'],
  ['probabilities', 'tokens', 'experts', 'float32', 'read'],
  ['weights', 'groups', 'experts', 'float32', 'read'],
  ['da', 'rank', 'dIn', 'gradient', 'output'],
  ['dRouter', 'experts', 'routerColumns', 'gradient', 'output'],
  ['db', 'bRows', 'bColumns', 'gradient', 'output'],
] as const

/** The text of all lists, for the comparison with the addon's. */
export const signature =
  'forward:operation;backend;device;stream;memoryStream;routing;pool;activation;precision;activationDtype;parameterDtype;tokens;dIn;dOut;rank;experts;groups;scaling;dropout;x, tokens, dIn, activation, read;a, rank, dIn, parameter, read;router, experts, routerColumns, parameter, read;b, bRows, bColumns, parameter, read;y, tokens, dOut, activation, output;hidden, tokens, rank, hidden, output;probabilities, tokens, experts, float32, output;weights, groups, experts, float32, update;mask, one, tokens, uint8, read;sequenceOffsets, one, offsets, int32, copy;uncheckedOffsets, one, offsets, int32, read;draw, one, four, int32, read;backward:operation;backend;device;stream;memoryStream;routing;pool;activation;precision;activationDtype;parameterDtype;tokens;dIn;dOut;rank;experts;groups;scaling;dropout;dy, tokens, dOut, activation, read;x, tokens, dIn, activation, read;a, rank, dIn, parameter, read;router, experts, routerColumns, parameter, read;b, bRows, bColumns, parameter, read;hidden, tokens, rank, hidden, read;probabilities, tokens, experts, float32, read;weights, groups, experts, float32, read;mask, one, tokens, uint8, read;sequenceOffsets, one, offsets, int32, copy;dx, tokens, dIn, activation, output;da, rank, dIn, gradient, output;dRouter, experts, routerColumns, gradient, output;db, bRows, bColumns, gradient, output;dWeights, groups, experts, float32, output;deferredDb, partials, partial, float32, output;draw, one, four, int32, read;linear:operation;backend;device;stream;memoryStream;transposed;precision;activationDtype;parameterDtype;tokens;dIn;dOut;x, tokens, depth, activation, read;weight, dOut, dIn, parameter, read;packed, one, packed, float32, read;bias, one, width, gradient, read;y, tokens, width, activation, output;pack:operation;backend;device;stream;memoryStream;transposed;precision;activationDtype;parameterDtype;tokens;dIn;dOut;weight, dOut, dIn, parameter, read;packed, one, packed, float32, output;matmul:operation;backend;device;stream;memoryStream;outer;inner;aOuter;aInner;bOuter;bInner;m;k;n;transposeA;transposeB;precision;activationDtype;a, aRows, aColumns, activation, read;b, bRows, bColumns, activation, read;bias, one, width, activation, read;y, rows, width, activation, output;attention:operation;backend;device;stream;memoryStream;batch;tokens;keys;heads;dHead;scale;causal;q, queryRows, headColumns, activation, read;k, keyRows, headColumns, activation, read;v, keyRows, headColumns, activation, read;mask, batch, keys, uint8, read;y, queryRows, headColumns, activation, output;statistics, headRows, statistics, float32, output;attentionBackward:operation;backend;device;stream;memoryStream;batch;tokens;keys;heads;dHead;scale;causal;dy, queryRows, headColumns, activation, read;q, queryRows, headColumns, activation, read;k, keyRows, headColumns, activation, read;v, keyRows, headColumns, activation, read;mask, batch, keys, uint8, read;y, queryRows, headColumns, activation, read;statistics, headRows, statistics, float32, read;dq, queryRows, headColumns, activation, output;dk, keyRows, headColumns, activation, output;dv, keyRows, headColumns, activation, output;elementwise:operation;backend;device;stream;memoryStream;function;m;n;aRows;aColumns;bRows;bColumns;scale;a, aRows, aColumns, float32, read;b, bRows, bColumns, float32, read;y, rows, width, float32, output;fold:operation;backend;device;stream;memoryStream;dOut;rank;experts;db, bRows, bColumns, any, output;partials, partials, partial, float32, read;weights, partials, experts, float32, read;draw:operation;backend;device;stream;memoryStream;state, one, four, int32, update;draw, one, four, int32, output;adamw:operation;backend;device;stream;memoryStream;step;beta1;beta2;eps;maxNorm;lr;weightDecay;norm, one, one, float32, output;skipped, one, one, float32, update;value, one, elements, any, update;grad, one, elements, any, read;expAvg, one, elements, float32, update;expAvgSq, one, elements, float32, update;forwardRows:operation;backend;device;stream;memoryStream;precision;activationDtype;parameterDtype;tokens;dIn;dOut;listed;indices;routing;pool;activation;rank;experts;groups;scaling;count;first;x, tokens, dIn, activation, read;y, tokens, dOut, activation, output;index, one, indices, int32, copy;mask, one, listed, uint8, read;scale, one, listed, float32, read;a, rank, dIn, parameter, read;router, experts, routerColumns, parameter, read;b, bRows, bColumns, parameter, read;hidden, tokens, rank, hidden, output;probabilities, tokens, experts, float32, output;weights, groups, experts, float32, update;backwardRows:operation;backend;device;stream;memoryStream;precision;activationDtype;parameterDtype;tokens;dIn;dOut;listed;indices;routing;pool;activation;rank;experts;groups;scaling;count;first;dy, tokens, dOut, activation, read;x, tokens, dIn, activation, read;dx, tokens, dIn, activation, output;index, one, indices, int32, copy;mask, one, listed, uint8, read;scale, one, listed, float32, read;a, rank, dIn, parameter, read;router, experts, routerColumns, parameter, read;b, bRows, bColumns, parameter, read;hidden, tokens, rank, hidden, read;probabilities, tokens, experts, float32, read;weights, groups, experts, float32, read;da, rank, dIn, gradient, output;dRouter, experts, routerColumns, gradient, output;db, bRows, bColumns, gradient, output;byteOffset;rows;columns;pitch;dtype;access;none;read;write;add;11;'
