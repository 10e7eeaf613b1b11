/** The memory of a GPUDevice that the package allocates: blocks, kept when they are freed for later calls. */
import { LilyError } from '../base/errors.js'
import type { PoolStats } from '../binding/native.js'

/** Smallest block in bytes: the alignment of bindings, so that a block of any class is a whole number of them. */
const GRANULE = 256

/** Classes for each power of two: a block is at most an eighth longer than what it holds, rounded up to a granule. */
const CLASSES = 8

/** One GPUBuffer of the pool. */
export class Block {
  /** Freed, and not in the cache: pins hold it back. */
  isFree = false
  /**
   * Calls that will use the block once their pipelines are compiled, and encoders of the caller whose commands use it. A number,
   * because a block that outlives an encoder must not keep the encoder's other blocks.
   */
  pins = 0

  constructor(
    readonly buffer: GPUBuffer,
    readonly byteLength: number,
  ) {}
}

/**
 * A caching pool. The queue runs commands in the order in which they are submitted, so a block that was freed can be used
 * again at once, unless an encoder of the caller uses it: such a block returns to the pool when the caller says that the
 * encoder was submitted, and otherwise goes to the garbage collector.
 */
export class BufferPool {
  readonly #cached = new Map<number, Block[]>()
  #isClosed = false
  readonly #statistics = {
    bytesInUse: 0,
    bytesCached: 0,
    peakBytesInUse: 0,
    blocksInUse: 0,
    blocksCached: 0,
    allocations: 0,
  }

  /** @param create creates a buffer; WebGPU reports asynchronously that it has no memory for it */
  constructor(
    private readonly maxBufferSize: number,
    private readonly create: (byteLength: number) => GPUBuffer,
  ) {}

  get statistics(): PoolStats {
    return { ...this.#statistics }
  }

  /**
   * A block of at least so many bytes, whose contents are undefined.
   *
   * @throws LilyError ERR_LILY_OUT_OF_MEMORY if a buffer of the device cannot be so long
   */
  take(byteLength: number): Block {
    const { maxBufferSize } = this
    if (byteLength > maxBufferSize) {
      throw new LilyError(
        'ERR_LILY_OUT_OF_MEMORY',
        `allocation of ${byteLength} bytes exceeds the device's limit maxBufferSize, ${maxBufferSize}; request a ` +
          'GPUDevice with a larger limit in requiredLimits, or split the call',
      )
    }
    const size = Math.min(classOf(byteLength), maxBufferSize - (maxBufferSize % 4))
    const block = this.#cached.get(size)?.pop() ?? null
    const statistics = this.#statistics
    if (block !== null) {
      statistics.bytesCached -= size
      statistics.blocksCached--
    }
    statistics.bytesInUse += size
    statistics.blocksInUse++
    statistics.peakBytesInUse = Math.max(statistics.peakBytesInUse, statistics.bytesInUse)
    if (block === null) statistics.allocations++
    return block ?? new Block(this.create(size), size)
  }

  /** Frees a block. Submitted commands may still use it. */
  give(block: Block): void {
    block.isFree = true
    this.#statistics.bytesInUse -= block.byteLength
    this.#statistics.blocksInUse--
    this.#cacheIfIdle(block)
  }

  /** Keeps a block from being used again until `unpin`. */
  pin(block: Block): void {
    block.pins++
  }

  unpin(block: Block): void {
    block.pins--
    if (block.isFree) this.#cacheIfIdle(block)
  }

  /** The cache never exceeds the most that was in use at once: a loop of equal steps finds all of its blocks there. */
  #cacheIfIdle(block: Block): void {
    if (block.pins > 0) return
    // Its next unpin may come from a caller who kept the buffer of a tensor longer than the tensor.
    block.isFree = false
    const statistics = this.#statistics
    if (this.#isClosed || statistics.bytesCached + block.byteLength > statistics.peakBytesInUse) {
      block.buffer.destroy() // after the submitted commands that use it
      return
    }
    const cached = this.#cached.get(block.byteLength) ?? []
    this.#cached.set(block.byteLength, cached)
    cached.push(block)
    statistics.bytesCached += block.byteLength
    statistics.blocksCached++
  }

  /** Destroys the cached blocks, and from now on every block that is freed. */
  close(): void {
    this.#isClosed = true
    this.empty()
  }

  /** Destroys the cached blocks. */
  empty(): void {
    for (const blocks of this.#cached.values()) for (const { buffer } of blocks) buffer.destroy()
    this.#cached.clear()
    this.#statistics.bytesCached = 0
    this.#statistics.blocksCached = 0
  }
}

/** The length of the blocks for so many bytes. */
function classOf(byteLength: number): number {
  const octave = 2 ** Math.floor(Math.log2(Math.max(byteLength, 1)))
  const step = Math.max(GRANULE, octave / CLASSES)
  return Math.max(Math.ceil(byteLength / step), 1) * step
}
