/** Runs a case on GpuKernels, with operands in GPU buffers. The results have the form of test/support/run.ts. */
import type {
  BackwardCall,
  ForwardCall,
  Matrix,
  NumberType,
  Output,
  Region,
  Sizes,
} from '../../lib/binding/gpu-call.js'
import type { GpuKernels } from '../../lib/webgpu/kernels.js'
import type { Case } from '../support/cases.js'
import { unpack } from '../support/dtypes.js'
import { type Layout, Operand } from '../support/operands.js'
import { thresholdOf } from '../support/philox.js'
import {
  columnsOfRouter,
  type GradientName,
  oldValues,
  type OperandName,
  operandTypes,
  type OutputName,
  type Result,
  sizesOfB,
  type Values,
  wantedGradients,
} from '../support/run.js'

export interface How {
  layout?: (name: OperandName) => Layout
  outputs?: 'add' | 'overwrite'
  needs?: Partial<Record<GradientName, boolean>>
  deferB?: boolean
  /** The contents of dx before the call, with outputs 'add'. */
  oldDx?: Float32Array
  /** All operands and saved values in one buffer; otherwise each has its own. */
  oneBuffer?: boolean
  /** Forward keeps nothing but the hidden state, and backward does not run. */
  inference?: boolean
}

/** Bytes that no kernel may write, before, between and behind the operands. */
const GUARD = 0xa5

/** Host bytes that are copied to buffers of the device before the calls, and back after them. */
export class Memory {
  readonly #pieces: { bytes: Uint8Array; offset: number; buffer: number }[] = []
  readonly #lengths: number[] = []
  buffers: GPUBuffer[] = []

  constructor(
    readonly device: GPUDevice,
    readonly oneBuffer: boolean,
  ) {}

  /** A place for bytes: in a buffer of its own, or in the one for all. Margins of operands move them off it. */
  place(bytes: Uint8Array): { index: number; byteOffset: number } {
    const shared = this.oneBuffer && this.#lengths.length > 0
    const buffer = shared ? 0 : this.#lengths.push(0) - 1
    const offset = Math.ceil(this.#lengths[buffer] / 4) * 4
    this.#lengths[buffer] = offset + bytes.length
    this.#pieces.push({ bytes, offset, buffer })
    return { index: this.#pieces.length - 1, byteOffset: offset }
  }

  upload(): void {
    const { device } = this
    this.buffers = this.#lengths.map((length) =>
      device.createBuffer({
        size: Math.ceil(Math.max(length, 4) / 4) * 4 + 16,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      }),
    )
    for (const [i, buffer] of this.buffers.entries()) {
      const content = new Uint8Array(buffer.size).fill(GUARD)
      for (const piece of this.#pieces) if (piece.buffer === i) content.set(piece.bytes, piece.offset)
      device.queue.writeBuffer(buffer, 0, content)
    }
  }

  bufferOf(index: number): GPUBuffer {
    return this.buffers[this.#pieces[index].buffer]
  }

  /** Reads everything back into the pieces; returns whether a byte outside of all pieces has changed. */
  async download(): Promise<boolean> {
    let isDamaged = false
    for (const [i, buffer] of this.buffers.entries()) {
      const content = await readBuffer(this.device, buffer)
      const rest = content.slice()
      for (const piece of this.#pieces) {
        if (piece.buffer !== i) continue
        piece.bytes.set(content.subarray(piece.offset, piece.offset + piece.bytes.length))
        rest.fill(GUARD, piece.offset, piece.offset + piece.bytes.length)
      }
      isDamaged ||= rest.some((byte) => byte !== GUARD)
      buffer.destroy()
    }
    return isDamaged
  }
}

export async function readBuffer(device: GPUDevice, buffer: GPUBuffer): Promise<Uint8Array> {
  const copy = device.createBuffer({ size: buffer.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
  const encoder = device.createCommandEncoder()
  encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size)
  device.queue.submit([encoder.finish()])
  await copy.mapAsync(GPUMapMode.READ)
  const content = new Uint8Array(copy.getMappedRange().slice(0))
  copy.destroy()
  return content
}

/** Encodes with `encode` and submits; a validation error throws. Allocated memory is filled with NaN first. */
export async function submit(
  device: GPUDevice,
  encode: (encoder: GPUCommandEncoder, allocate: (bytes: number) => GPUBuffer) => void,
): Promise<void> {
  device.pushErrorScope('validation')
  const allocated: GPUBuffer[] = []
  const encoder = device.createCommandEncoder()
  encode(encoder, (bytes) => {
    const { STORAGE, UNIFORM, COPY_SRC, COPY_DST } = GPUBufferUsage
    const size = Math.ceil(bytes / 256) * 256 + 256
    const buffer = device.createBuffer({ size, usage: STORAGE | UNIFORM | COPY_SRC | COPY_DST })
    device.queue.writeBuffer(buffer, 0, new Uint32Array(size / 4).fill(0x7fc5a5a5))
    allocated.push(buffer)
    return buffer
  })
  device.queue.submit([encoder.finish()])
  const error = await device.popErrorScope()
  for (const buffer of allocated) buffer.destroy()
  if (error !== null) throw new Error(`WebGPU: ${error.message}`)
}

export async function runOnGpu(kernels: GpuKernels, device: GPUDevice, c: Case, how: How = {}): Promise<Result> {
  const { routing, tokens, dIn, dOut, rank, experts } = c
  const { outputs = 'overwrite', needs = {}, deferB = false, inference = false } = how
  const { activations = 'float32', parameters = activations } = c
  const isLora = routing === 'lora'
  const groups = c.offsets ? c.offsets.length - 1 : 1
  const memory = new Memory(device, how.oneBuffer === true)
  const dtypeOf = operandTypes(c)
  const operands = new Map<OperandName, { operand: Operand; index: number; matrix: () => Output }>()
  const old: Result['old'] = {}

  const place = (name: OperandName, rows: number, cols: number, values: ArrayLike<number>) => {
    const layout = how.layout?.(name) ?? { gap: 0, margin: 0 }
    const operand = new Operand(dtypeOf[name], rows, cols, values, layout)
    const bytes = new Uint8Array(operand.data.buffer)
    const { index, byteOffset } = memory.place(bytes)
    const matrix = (): Output => ({
      buffer: memory.bufferOf(index),
      byteOffset: byteOffset + layout.margin * operand.data.BYTES_PER_ELEMENT,
      dtype: dtypeOf[name],
      pitch: cols + layout.gap,
      accumulate: outputs === 'add',
    })
    operands.set(name, { operand, index, matrix })
  }
  const output = (name: OutputName, rows: number, cols: number) => {
    const given = name === 'dx' ? how.oldDx : undefined
    const values = given ?? oldValues(outputs, dtypeOf[name], rows, cols)
    old[name] = values
    place(name, rows, cols, values)
  }
  const region = (bytes: Uint8Array) => {
    const { index, byteOffset } = memory.place(bytes)
    return (): Region => ({ buffer: memory.bufferOf(index), byteOffset })
  }
  const optional = (bytes: Uint8Array | undefined) => (bytes === undefined ? () => null : region(bytes))
  const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

  const [bRows, bCols] = sizesOfB(c)
  place('x', tokens, dIn, c.x)
  place('a', rank, dIn, c.a)
  place('b', bRows, bCols, c.b)
  if (c.router) place('router', experts, columnsOfRouter(c), c.router)
  place('dy', tokens, dOut, c.dy)
  output('y', tokens, dOut)
  const gradients = wantedGradients(c, needs)
  const wanted = (name: GradientName) => gradients.includes(name)
  if (!inference) {
    if (wanted('dx')) output('dx', tokens, dIn)
    if (wanted('da')) output('da', rank, dIn)
    if (wanted('dRouter')) output('dRouter', experts, columnsOfRouter(c))
    if (wanted('db')) output('db', bRows, bCols)
    if (wanted('dWeights')) output('dWeights', groups, experts)
  }
  const mask = optional(c.mask && bytesOf(c.mask))
  const offsets = optional(c.offsets && bytesOf(c.offsets))

  const isRouted = c.router !== undefined
  const keepsProbabilities = isRouted && routing !== 'learned' && (routing === 'token' || c.pool !== 'logits')
  const keepsWeights = routing !== 'token' && !isLora
  const hiddenType: NumberType = c.precision === 'high' && parameters === 'float32' ? 'float32' : activations
  const hiddenBytes = new Uint8Array(tokens * rank * (hiddenType === 'float32' ? 4 : 2))
  const hidden = region(hiddenBytes)
  const probabilities = new Float32Array(tokens * experts)
  const probabilitiesRegion = optional(keepsProbabilities && !inference ? bytesOf(probabilities) : undefined)
  const weights = Float32Array.from(c.weights ?? new Float32Array(groups * experts))
  const weightsRegion = optional(keepsWeights && (!inference || routing === 'fixed') ? bytesOf(weights) : undefined)
  const perGroup = routing !== 'token' && groups <= experts
  const partials = perGroup ? groups : experts
  const deferred = optional(deferB && !inference ? new Uint8Array(partials * rank * dOut * 4) : undefined)
  memory.upload()

  const matrix = (name: OperandName) => operands.get(name)!.matrix()
  const inputs = {
    ...({
      routing: isLora ? 'none' : routing,
      pool: c.pool ?? 'probabilities',
      activation: c.activation ?? 'none',
      scaling: c.scaling ?? 1,
      tokens,
      dIn,
      dOut,
      rank,
      experts,
      groups,
      dropout: c.dropout ? thresholdOf(c.dropout.rate) : 0,
    } satisfies Sizes),
    draw: c.dropout ? [...c.dropout.draw] : null,
    x: matrix('x'),
    a: matrix('a'),
    router: isRouted ? matrix('router') : null,
    b: matrix('b'),
    mask: mask(),
    sequenceOffsets: offsets(),
  }
  const kept: Matrix = { ...hidden(), dtype: hiddenType, pitch: rank }
  const forward: ForwardCall = {
    ...inputs,
    uncheckedOffsets: null,
    y: matrix('y'),
    hidden: kept,
    probabilities: probabilitiesRegion(),
    weights: weightsRegion(),
  }
  await submit(device, (encoder, allocate) => kernels.encode([{ name: 'forward', call: forward }], encoder, allocate))
  if (!inference) {
    const out = (name: OutputName) => (operands.has(name) ? matrix(name) : null)
    const backward: BackwardCall = {
      ...inputs,
      dy: matrix('dy'),
      hidden: kept,
      probabilities: probabilitiesRegion(),
      weights: weightsRegion(),
      dx: out('dx'),
      da: out('da'),
      dRouter: out('dRouter'),
      db: deferB ? null : out('db'),
      deferredDb: wanted('db') ? deferred() : null,
      dWeights: out('dWeights'),
    }
    await submit(device, (encoder, allocate) =>
      kernels.encode([{ name: 'backward', call: backward }], encoder, allocate),
    )
    const matrices = deferred()
    if (deferB && matrices !== null && operands.has('db')) {
      const layers = [{ partials, matrices, weights: perGroup ? weightsRegion() : null }]
      const fold = { experts, rank, dOut, db: matrix('db'), layers }
      await submit(device, (encoder, allocate) => kernels.encode([{ name: 'fold', call: fold }], encoder, allocate))
    }
  }

  const damaged = (await memory.download()) ? ['bytes outside of all operands'] : []
  const values: Values = {}
  for (const [name, { operand }] of operands) {
    const isOutput = name in old
    if (isOutput) values[name as OutputName] = operand.values()
    if (isOutput ? !operand.isPaddingUnchanged() : !operand.isUnchanged()) damaged.push(name)
  }
  if (inference) return { values: { y: values.y }, old, damaged }
  values.hidden = unpack(
    hiddenType,
    hiddenType === 'float32' ? new Float32Array(hiddenBytes.buffer) : new Uint16Array(hiddenBytes.buffer),
  )
  if (keepsProbabilities) values.probabilities = probabilities
  if (keepsWeights) values.weights = weights
  return { values, old, damaged }
}
