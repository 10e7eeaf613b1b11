/**
 * The C ABI in the memory of a WebAssembly module: values of its enumerations, sizes of its structs and offsets of their
 * fields, in bytes.
 *
 * Generated from native/include/lily/backend.h by scripts/generate-abi.js. Do not edit: change that file and run
 * `node scripts/generate-abi.js`.
 */

export const ABI_VERSION = 8

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
export const dtype = {
  float32: 0,
  bfloat16: 1,
  float16: 2,
} as const

/** `lily_routing`. */
export const routing = {
  batch: 0,
  sequence: 1,
  token: 2,
  uniform: 3,
  fixed: 4,
  none: 5,
} as const

/** `lily_pool`. */
export const pool = {
  probabilities: 0,
  logits: 1,
} as const

/** `lily_activation`. */
export const activation = {
  none: 0,
  relu: 1,
} as const

/** `lily_precision`. */
export const precision = {
  default: 0,
  high: 1,
  tf32: 2,
} as const

/** `lily_memory_kind`. */
export const memoryKind = {
  memoryHost: 0,
  memoryPinned: 1,
  memoryDevice: 2,
  memoryManaged: 3,
} as const

/** `lily_roof`. */
export const roof = {
  multiplyAdd: 0,
  read: 1,
  update: 2,
  bfloat16: 3,
  product: 4,
} as const

/** `lily_matrix`. */
export const matrixStruct = {
  bytes: 24,
  data: 0,
  pitch: 8,
  dtype: 16,
  accumulate: 20,
} as const

/** `lily_problem`. */
export const problemStruct = {
  bytes: 80,
  tokens: 0,
  dIn: 8,
  dOut: 16,
  rank: 24,
  experts: 32,
  groups: 40,
  routing: 48,
  pool: 52,
  activation: 56,
  precision: 60,
  activationDtype: 64,
  parameterDtype: 68,
  scaling: 72,
  device: 76,
} as const

/** `lily_tokens`. */
export const tokensStruct = {
  bytes: 8,
  mask: 0,
  sequenceOffsets: 4,
} as const

/** `lily_forward`. */
export const forwardStruct = {
  bytes: 240,
  problem: 0,
  tokens: 80,
  x: 88,
  a: 112,
  router: 136,
  b: 160,
  y: 184,
  hidden: 208,
  probabilities: 212,
  weights: 216,
  uncheckedOffsets: 220,
  workspace: 224,
  workspaceBytes: 228,
  stream: 232,
} as const

/** `lily_backward`. */
export const backwardStruct = {
  bytes: 336,
  problem: 0,
  tokens: 80,
  dy: 88,
  x: 112,
  a: 136,
  router: 160,
  b: 184,
  hidden: 208,
  probabilities: 212,
  weights: 216,
  dx: 224,
  da: 248,
  dRouter: 272,
  db: 296,
  deferredDb: 320,
  workspace: 324,
  workspaceBytes: 328,
  stream: 332,
} as const

/** `lily_deferred`. */
export const deferredStruct = {
  bytes: 16,
  partial: 0,
  weights: 4,
  groups: 8,
} as const

/** `lily_fold`. */
export const foldStruct = {
  bytes: 72,
  rank: 0,
  experts: 8,
  dOut: 16,
  layers: 24,
  layerCount: 32,
  db: 40,
  device: 64,
  stream: 68,
} as const

/** `lily_linear_problem`. */
export const linearProblemStruct = {
  bytes: 48,
  tokens: 0,
  dIn: 8,
  dOut: 16,
  transposed: 24,
  precision: 28,
  activationDtype: 32,
  parameterDtype: 36,
  device: 40,
} as const

/** `lily_linear`. */
export const linearStruct = {
  bytes: 168,
  problem: 0,
  x: 48,
  weight: 72,
  packed: 96,
  bias: 104,
  y: 128,
  workspace: 152,
  workspaceBytes: 156,
  stream: 160,
} as const

/** `lily_adamw_parameter`. */
export const adamwParameterStruct = {
  bytes: 48,
  value: 0,
  grad: 4,
  expAvg: 8,
  expAvgSq: 12,
  count: 16,
  valueDtype: 24,
  gradDtype: 28,
  lr: 32,
  weightDecay: 40,
} as const

/** `lily_adamw`. */
export const adamwStruct = {
  bytes: 80,
  parameters: 0,
  parameterCount: 8,
  beta1: 16,
  beta2: 24,
  eps: 32,
  step: 40,
  norm: 48,
  skipped: 52,
  maxNorm: 56,
  device: 60,
  workspace: 64,
  workspaceBytes: 68,
  stream: 72,
} as const

/** `lily_device_info`. */
export const deviceInfoStruct = {
  bytes: 232,
  name: 0,
  detail: 128,
  without: 192,
  memoryBytes: 208,
  cacheBytes: 216,
  parallelism: 224,
} as const

/** `lily_pointer_info`. */
export const pointerInfoStruct = {
  bytes: 8,
  kind: 0,
  device: 4,
} as const

/** `lily_backend`. */
export const backendStruct = {
  bytes: 168,
  abiVersion: 0,
  name: 4,
  lastError: 8,
  lastErrorName: 12,
  deviceCount: 16,
  deviceInfo: 20,
  deviceReady: 24,
  deviceFallBack: 28,
  measureRoof: 32,
  forwardWorkspace: 36,
  forward: 40,
  backwardWorkspace: 44,
  backward: 48,
  fold: 52,
  linearWorkspace: 56,
  linear: 60,
  linearPackedBytes: 64,
  linearPack: 68,
  adamwWorkspace: 72,
  adamw: 76,
  allocate: 80,
  release: 84,
  allocatePinned: 88,
  releasePinned: 92,
  pointerInfo: 96,
  copy: 100,
  fill: 104,
  streamDefault: 108,
  streamCreate: 112,
  streamDestroy: 116,
  streamWaitEvent: 120,
  eventCreate: 124,
  eventDestroy: 128,
  eventRecord: 132,
  eventQuery: 136,
  eventSynchronize: 140,
  eventElapsed: 144,
  captureBegin: 148,
  captureEnd: 152,
  graphLaunch: 156,
  graphDestroy: 160,
  close: 164,
} as const
