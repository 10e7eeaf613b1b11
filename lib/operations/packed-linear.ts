/** The packed forms of a frozen weight. */
import { checkWeight } from '../base/checks.js'
import { CREATE, checkCreate } from '../base/create.js'
import type { DType, HostData } from '../base/dtype.js'
import { fail, LilyError } from '../base/errors.js'
import { type Known, readFlag, readProperties } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { allocateOnHost } from '../memory/allocate.js'
import { CPU, type Device, refuseWebGpu } from '../memory/device.js'
import { addressOf } from '../memory/host-memory.js'
import { isHostMemory } from '../memory/operand-memory.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { encode, launch, PACK, region, type Region } from './call.js'
import type { LinearProblem, PackedWeight } from './linear-problem.js'

/** Alignment in bytes of a packed form: a cache line, which is also the widest vector. */
const ALIGNMENT = 64

class Packed implements PackedWeight {
  readonly #forms = new Map<string, Region>()
  isDisposed = false

  constructor(
    readonly weight: Operand,
    readonly isTransposed: boolean,
  ) {}

  get byteLength(): number {
    let bytes = 0
    for (const { memory } of this.#forms.values()) bytes += (memory as HostData).byteLength
    return bytes
  }

  form(problem: LinearProblem): Region | null {
    const { weight } = problem
    if (weight.device !== CPU) return null
    const call = { kind: PACK, problem, operands: [weight, null], placement: null }
    const { numbers, memory } = encode(call)
    let bytes: number
    try {
      bytes = bound(() => native.packedBytes(numbers, ...memory))
    } finally {
      memory.fill(null)
    }
    if (bytes === 0) return null
    const key = `${problem.transposed} ${problem.dtype} ${problem.precision}`
    const known = this.#forms.get(key)
    if (known !== undefined) return known
    const form = allocateAligned(bytes)
    bound(() => {
      launch({ ...call, operands: [weight, form] })
    })
    this.#forms.set(key, form)
    return form
  }

  dispose(): void {
    this.isDisposed = true
    this.#forms.clear()
    // The weight is of the caller: only the reference to device memory is this object's own.
    if (!isHostMemory(this.weight.memory)) this.weight.dispose()
  }
}

function allocateAligned(bytes: number): Region {
  const memory = allocateOnHost('weight', 'float32', (bytes + ALIGNMENT) / Float32Array.BYTES_PER_ELEMENT)
  const byteOffset = (ALIGNMENT - (addressOf(memory) % ALIGNMENT)) % ALIGNMENT
  return region({ memory, byteOffset }, 1, bytes / Float32Array.BYTES_PER_ELEMENT)
}

/** The state of a packed weight: null once it is disposed of; undefined for any other value. */
export let packedWeightOf: (value: unknown) => PackedWeight | null | undefined

let packedOf: (weight: Packed) => PackedLinear

/**
 * A frozen weight with the packed forms in which the cpu backend multiplies it: {@link packLinear} creates one. Pass it
 * as `weight` to the calls of a linear layer, or of a layer with its adapter, so they need not pack it again. The results
 * have the same bits.
 *
 * It refers to the memory of the weight, which must not change as long as the object is used. A form is packed by the
 * first call that needs it: one for forward and one for backward, of about d_out * d_in numbers of float32 each, or of
 * bfloat16 where the processor multiplies bfloat16; and others for other types of x and other precisions. A weight of 16
 * bits has no form in float32: it stays half as large, and each call packs it. On CUDA devices there are no packed forms.
 *
 * @example
 * using packed = packLinear(weight)
 * linearForward({ x, weight: packed })
 * console.log(packed.byteLength)
 */
export class PackedLinear {
  #weight: Packed | null

  private constructor(key: symbol, weight: Packed) {
    checkCreate(key, 'PackedLinear', 'packLinear(weight)')
    this.#weight = weight
  }

  static {
    packedWeightOf = (value) => (value instanceof PackedLinear ? value.#weight : undefined)
    packedOf = (weight) => new PackedLinear(CREATE, weight)
  }

  /**
   * `[d_out, d_in]`, also of a `transposed` weight: a copy.
   *
   * @throws LilyError ERR_LILY_DISPOSED, like all properties except `isDisposed`
   */
  get shape(): number[] {
    const { weight, isTransposed } = this.#open()
    return isTransposed ? [...weight.shape].reverse() : weight.shape.slice()
  }

  /** Data type of the weight. */
  get dtype(): DType {
    return this.#open().weight.dtype
  }

  /** The device of the weight. */
  get device(): Device {
    return this.#open().weight.device
  }

  /** Bytes of the forms that have been packed so far, without the weight itself. */
  get byteLength(): number {
    return this.#open().byteLength
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#weight === null
  }

  /**
   * Releases the packed forms; calls that run still use them. The weight is not changed. Calling it again has no effect.
   * Throws nothing.
   */
  dispose(): void {
    this.#weight?.dispose()
    this.#weight = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    if (this.#weight === null) return 'PackedLinear { disposed }'
    const { dtype, device } = this
    return `PackedLinear { ${dtype} ${shapeText(this.shape)} on ${device.type}:${device.id} }`
  }

  #open(): Packed {
    if (this.#weight !== null) return this.#weight
    throw new LilyError('ERR_LILY_DISPOSED', 'this packed weight is disposed of; use it before dispose()')
  }
}

/** Options of {@link packLinear}. */
export interface PackLinearOptions {
  /**
   * Whether the weight is `[d_in, d_out]`, as TensorFlow.js has kernels. It is in host memory then. Default false:
   * `[d_out, d_in]`, as PyTorch has weights.
   */
  readonly transposed?: boolean | undefined
}

const OPTIONS: Known = new Set<keyof PackLinearOptions>(['transposed'])

/**
 * Prepares a frozen weight for repeated calls: see {@link PackedLinear}. Packing a weight takes about as long as
 * multiplying it with some tens of tokens, so it pays with few tokens per call (docs/linear.md#packed-weights).
 *
 * @param weight [d_out, d_in], or [d_in, d_out] with `transposed`; float32, bfloat16 or float16; it is not copied
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE
 * @example
 * using packed = packLinear(weight)
 * for (const x of batches) linearForward({ x, weight: packed })
 */
export function packLinear(weight: TensorLike, options: PackLinearOptions = {}): PackedLinear {
  const operand = resolve('weight', weight)
  const isTransposed = readProperties('options', options, OPTIONS, ({ transposed }) =>
    readFlag('transposed', transposed, false),
  )
  checkMemory('weight', operand)
  checkWeight(operand, isTransposed ? '[d_in, d_out]' : undefined)
  refuseWebGpu('weight', 'packLinear', operand.device)
  const isOnHost = isHostMemory(operand.memory)
  if (isTransposed && !isOnHost) {
    fail('ERR_LILY_DEVICE', 'transposed', 'expected a weight in host memory; pass a weight [d_out, d_in] on a device')
  }
  return packedOf(new Packed(isOnHost ? operand : operand.share(), isTransposed))
}

/**
 * A weight [d_in, d_out] on a GPUDevice, as lily-kernels/tfjs has kernels, as an operand of calls: {@link packLinear} with
 * `transposed`, which is refused there because nothing is packed.
 */
export function kernelOnGpu(weight: TensorLike): PackedLinear {
  return packedOf(new Packed(resolve('weight', weight), true))
}
