/** The module of the cpu backend in WebAssembly (native/wasm/module.h): its memory, its threads, and calls in it. */
import { signature, status as statuses } from '../slots.js'
import { bindingError } from './errors.js'
import type { Build, Host } from './host.js'
import { Runner } from './runner.js'
import { THREAD_SCRIPT, type ThreadStart, TRAPPED } from './thread-script.js'

const PAGE_BYTES = 64 * 1024

/** The address space of WebAssembly in pages, and less for engines that reserve it at once and do not have it. */
const MOST_PAGES = [65536, 32768, 16384, 4096]

/** The data and the stack of the module; allocations grow the memory. */
const INITIAL_PAGES = 64

/** Stack of a thread: the buffers of a task lie on it. The main thread has as much. */
const STACK_BYTES = 1 << 20

/** Cache lines. */
const ALIGNMENT = 64

interface Exports {
  readonly __tls_size: WebAssembly.Global
  _initialize(): void
  aligned_alloc(alignment: number, bytes: number): number
  free(address: number): void
  lily_wasm_set_threads(count: number): void
  lily_wasm_signature(): number
  lily_wasm_call_bytes(): number
  lily_wasm_read(...args: number[]): number
  lily_wasm_packed_bytes(...args: number[]): number
  lily_wasm_message(): number
  lily_wasm_workspace_bytes(call: number, bytes: number): number
  lily_wasm_give_workspace(call: number, workspace: number, bytes: number): void
  lily_wasm_run(call: number): number
  lily_wasm_last_error(): number
  lily_wasm_ready(): number
  lily_wasm_measure_roof(roof: number, bytes: number, rate: number): number
  lily_cpu_gram_factor(x: number, r: bigint, columns: bigint, l: number): number
  lily_cpu_congruence_eigenvalues(l: number, x: number, r: bigint, columns: bigint, values: number): number
}

/** What a call reads or writes in the memory of the module. */
export interface Block {
  readonly address: number
  readonly byteLength: number
}

export class Module {
  readonly memory: WebAssembly.Memory
  readonly exports: Exports
  /** 64 bytes for numbers that the ABI returns through a pointer. */
  readonly scratch: number
  /** The size of a call. */
  readonly callBytes: number
  #view: DataView
  #hasStarted = false
  #runner: Promise<Runner | null> | undefined

  /**
   * @param threads number of threads that a call uses, with the calling one; 1 without shared memory
   * @throws any error of the engine, if it refuses the module or its memory
   */
  constructor(
    private readonly module: WebAssembly.Module,
    readonly build: Build,
    private readonly host: Host,
    readonly threads: number,
  ) {
    this.memory = newMemory(host.sharesMemory)
    const imports = { env: { memory: this.memory, now: () => performance.now() } }
    this.exports = new WebAssembly.Instance(module, imports).exports as unknown as Exports
    this.#view = new DataView(this.memory.buffer)
    this.exports._initialize()
    this.exports.lily_wasm_set_threads(threads)
    if (this.text(this.exports.lily_wasm_signature()) !== signature) throw new Error('it is of another version')
    this.callBytes = this.exports.lily_wasm_call_bytes()
    this.scratch = this.allocate('results', ALIGNMENT)
  }

  /** Whether other threads, and typed arrays of the caller, share the memory. */
  get isShared(): boolean {
    return this.host.sharesMemory
  }

  /** The memory. After it has grown, this is another object. */
  get view(): DataView {
    if (this.#view.buffer !== this.memory.buffer) this.#view = new DataView(this.memory.buffer)
    return this.#view
  }

  /** A part of the memory, until it grows. */
  bytes(address: number, byteLength: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, byteLength)
  }

  /** The text that ends with a zero. */
  text(address: number): string {
    let text = ''
    for (let at = address; this.view.getUint8(at) !== 0; at++) text += String.fromCharCode(this.view.getUint8(at))
    return text
  }

  /** Calls a function that reads a call. @throws an error with the code and the message that it reports */
  read(name: 'lily_wasm_read' | 'lily_wasm_packed_bytes', ...args: number[]): void {
    const code = this.exports[name](...args) >>> 0
    if (code !== 0) throw bindingError(this.text(code), this.text(this.exports.lily_wasm_message()))
  }

  /** The message of the last call that failed. */
  lastError(): string {
    return this.text(this.exports.lily_wasm_last_error() >>> 0)
  }

  /** @throws an error with the code and the message of a status that is not LILY_OK */
  check(status: number): void {
    if (status !== statuses.ok) throw statusError(status, this.lastError())
  }

  /** Allocates memory that is aligned to 64 bytes. Its contents are undefined. Null: the memory cannot grow so far. */
  tryAllocate(byteLength: number): number | null {
    const rounded = Math.max(Math.ceil(byteLength / ALIGNMENT), 1) * ALIGNMENT
    if (rounded >= MOST_PAGES[0] * PAGE_BYTES) return null
    return this.exports.aligned_alloc(ALIGNMENT, rounded) >>> 0 || null
  }

  /** @throws an error with the code ERR_LILY_OUT_OF_MEMORY */
  allocate(what: string, byteLength: number): number {
    const address = this.tryAllocate(byteLength)
    if (address !== null) return address
    throw bindingError(
      'ERR_LILY_OUT_OF_MEMORY',
      `no memory for ${what} of ${byteLength} bytes: the memory of WebAssembly, now of ${this.memory.buffer.byteLength} ` +
        'bytes, cannot grow so far; use smaller batches',
    )
  }

  release(address: number): void {
    this.exports.free(address)
  }

  /** Starts the threads of the pool, once. They take part in calls as soon as they run. */
  startThreads(): void {
    if (this.#hasStarted) return
    this.#hasStarted = true
    for (let worker = 1; worker < this.threads; worker++) {
      let own: OwnMemory | undefined
      try {
        own = this.#own()
        const thread = this.host.start(THREAD_SCRIPT)
        // The other threads do its work. Without a listener Node.js ends the process if a thread fails.
        thread.onEnd(() => undefined)
        thread.post({ ...own.start, worker })
      } catch {
        own?.release()
        return // the calling thread does the work
      }
    }
  }

  /**
   * Runs a call on a thread of its own, or on the calling thread where there can be no other. `blocks` are what it reads
   * and writes.
   */
  async run(call: number, blocks: readonly Block[]): Promise<void> {
    this.startThreads()
    const runner = await (this.#runner ??= this.#startRunner())
    if (runner === null) {
      this.check(this.exports.lily_wasm_run(call))
      return
    }
    const copied = this.isShared
      ? {}
      : { blocks: this.#copies(blocks), pages: this.memory.buffer.byteLength / PAGE_BYTES }
    const result = await runner.run({ call, ...copied }).catch((error: unknown) => {
      this.#runner = undefined // the next call starts another thread
      throw error
    })
    for (const [address, bytes] of result.blocks ?? []) this.bytes(address, bytes.length).set(bytes)
    if (result.status !== statuses.ok) throw statusError(result.status, result.message)
  }

  #copies(blocks: readonly Block[]): (readonly [address: number, bytes: Uint8Array])[] {
    try {
      return blocks.map(({ address, byteLength }) => [address, this.bytes(address, byteLength).slice()] as const)
    } catch (cause) {
      throw bindingError(
        'ERR_LILY_OUT_OF_MEMORY',
        `no memory for copies of the operands (${String(cause)}); use smaller batches, or forms without Async`,
      )
    }
  }

  /** The start of a thread in the memory of this module, with a stack and thread-local data of its own. */
  #own(): OwnMemory {
    const { module, memory, exports } = this
    const block = this.allocate('the stack of a thread', STACK_BYTES + Number(exports.__tls_size.value))
    // The stack grows down, from where the data begin.
    const end = block + STACK_BYTES
    let isReleased = false
    return {
      start: { module, memory, stack: end, tls: end },
      release: () => {
        if (!isReleased) this.release(block)
        isReleased = true
      },
    }
  }

  /** Null: the runtime has no threads, or forbids them. */
  async #startRunner(): Promise<Runner | null> {
    let own: OwnMemory | undefined
    try {
      if (this.isShared) own = this.#own()
      const start = own?.start ?? { module: this.module, initialPages: INITIAL_PAGES, mostPages: MOST_PAGES }
      // A thread that ends later is replaced by another one.
      const runner = new Runner(this.host.start(THREAD_SCRIPT), start, () => own?.release())
      await runner.started
      return runner
    } catch {
      own?.release()
      return null
    }
  }
}

/** Memory of a thread in the memory of the module. */
interface OwnMemory {
  readonly start: ThreadStart
  /** Frees it. Calling it again has no effect: a thread that does not start may also end. */
  readonly release: () => void
}

/** @throws any error of the engine, if it has no memory of 256 MiB either */
function newMemory(shared: boolean): WebAssembly.Memory {
  let failure: unknown
  for (const maximum of MOST_PAGES) {
    try {
      return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared })
    } catch (error) {
      failure = error
    }
  }
  throw failure
}

/** The error of a status, as the addon has it. */
function statusError(status: number, message: string): Error {
  if (status === statuses.errorUnavailable) return bindingError('ERR_LILY_BACKEND_UNAVAILABLE', message)
  if (status === statuses.errorOutOfMemory) return bindingError('ERR_LILY_OUT_OF_MEMORY', message)
  if (status === TRAPPED) return new Error(message)
  return bindingError('ERR_LILY_ARGUMENT', message)
}
