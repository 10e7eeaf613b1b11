/**
 * The positions of a call's numbers and operands in what the addon is passed.
 *
 * Generated from native/napi/descriptor.h by scripts/generate-descriptor.js. Do not edit: change that file and run
 * `node scripts/generate-descriptor.js`.
 */

/**
 * Numbers of a forward or backward call. The call runs in `stream`; its workspace belongs to `memoryStream`, a stream
 * of the package.
 */
export const callFields = {
  backend: 0,
  device: 1,
  stream: 2,
  memoryStream: 3,
  routing: 4,
  pool: 5,
  activation: 6,
  precision: 7,
  activationDtype: 8,
  parameterDtype: 9,
  tokens: 10,
  dIn: 11,
  dOut: 12,
  rank: 13,
  experts: 14,
  groups: 15,
  scaling: 16,
} as const

/** Numbers of one operand. They follow the call's numbers, slot by slot. */
export const slotFields = {
  byteOffset: 0,
  pitch: 1,
  dtype: 2,
  accumulate: 3,
} as const

/** Operands of a forward call. */
export const forwardSlots = {
  x: 0,
  a: 1,
  router: 2,
  b: 3,
  y: 4,
  hidden: 5,
  probabilities: 6,
  weights: 7,
  mask: 8,
  sequenceOffsets: 9,
  uncheckedOffsets: 10,
} as const

/** Operands of a backward call. */
export const backwardSlots = {
  dy: 0,
  x: 1,
  a: 2,
  router: 3,
  b: 4,
  hidden: 5,
  probabilities: 6,
  weights: 7,
  mask: 8,
  sequenceOffsets: 9,
  dx: 10,
  da: 11,
  dRouter: 12,
  db: 13,
  deferredDb: 14,
} as const

/** Numbers of a fold. The slot numbers of db follow, then the numbers of each layer. */
export const foldFields = {
  backend: 0,
  device: 1,
  stream: 2,
  dOut: 3,
  rank: 4,
  experts: 5,
} as const

/**
 * Numbers of the deferred gradient of one layer: its number of r x d_out matrices, and the offset in bytes of its
 * weights.
 */
export const foldLayerFields = {
  partials: 0,
  weightsOffset: 1,
} as const

/** Numbers of a call of a frozen linear layer, or of the packing of its weight. */
export const linearFields = {
  backend: 0,
  device: 1,
  stream: 2,
  memoryStream: 3,
  transposed: 4,
  precision: 5,
  activationDtype: 6,
  parameterDtype: 7,
  tokens: 8,
  dIn: 9,
  dOut: 10,
} as const

/** Operands of such a call. x is dy, and y is dx, if it is transposed. Of packed only the offset counts. */
export const linearSlots = {
  x: 0,
  weight: 1,
  packed: 2,
  bias: 3,
  y: 4,
} as const

/** Numbers of a step of AdamW. The numbers of each parameter follow. */
export const adamwFields = {
  backend: 0,
  device: 1,
  stream: 2,
  memoryStream: 3,
  step: 4,
  beta1: 5,
  beta2: 6,
  eps: 7,
  maxNorm: 8,
} as const

/** Numbers of one parameter. Its moments begin at the first byte of their memory and have no offset. */
export const adamwParameterFields = {
  elements: 0,
  valueOffset: 1,
  valueDtype: 2,
  gradOffset: 3,
  gradDtype: 4,
  lr: 5,
  weightDecay: 6,
} as const

/** All lists, for the comparison with those of the addon. */
export const descriptor = {
  callFields,
  slotFields,
  forwardSlots,
  backwardSlots,
  foldFields,
  foldLayerFields,
  linearFields,
  linearSlots,
  adamwFields,
  adamwParameterFields,
} as const

/** How many numbers or operands each list has. */
export const lengths = {
  callFields: 17,
  slotFields: 4,
  forwardSlots: 11,
  backwardSlots: 15,
  foldFields: 6,
  foldLayerFields: 2,
  linearFields: 11,
  linearSlots: 5,
  adamwFields: 9,
  adamwParameterFields: 7,
} as const
