/**
 * Random calls of the binding, without lib/ before it, in a process of their own: this file is both sides. Each call
 * follows from the seed and its number, and the process writes the number to a file before the call, so that a call that
 * ends the process can be found and repeated.
 */
import { pbkdf2 } from 'node:crypto'
import { openSync, readFileSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import load from 'node-gyp-build'
import type { Binding, Native } from '../../lib/binding/native.js'
import { packageRoot } from '../../lib/binding/root.js'
import { loadModule } from '../../lib/binding/wasm/load.js'
import { wasmNative } from '../../lib/binding/wasm/native.js'
import { nodeHost } from '../../lib/binding/wasm/node-host.js'
import { answer, ask } from '../support/fork.js'
import { randomFrom } from '../support/random.js'
import { type Call, functionNames, functionOf, isRefused, OF_OPERATIONS, validCalls } from './calls.js'
import { DeviceCalls } from './device-calls.js'
import { allocate, allocateResident, type Maker } from './memory.js'
import { junkCall, mutate } from './mutations.js'

export interface Outcome {
  accepted: number
  refused: number
  /** Mutated calls that the binding accepted. */
  mutatedAccepted: number
  /** What was wrong: of the first call that was. */
  failure: string | null
}

interface Job {
  seed: number
  /** The number of the first call. */
  first: number
  count: number
  /** Calls of the functions for devices, which depend on each other. */
  devices?: boolean
  /** Calls of WebAssembly. */
  wasm?: boolean
  /** The file for the number of the call that is running. */
  progress: string
}

/** Runs calls in a new process. Throws if it ends before their end. */
export async function fuzz(job: Job): Promise<Outcome> {
  try {
    // With one thread for kernels a call is the same in every run, and its scratch memory ends where the block of its
    // workspace does, so that AddressSanitizer sees an access behind it. With one thread for promises an Async call waits
    // for the work that was queued before it.
    return await ask<Outcome>(fileURLToPath(import.meta.url), job, { LILY_NUM_THREADS: '1', UV_THREADPOOL_SIZE: '1' })
  } catch (cause) {
    const number = readFileSync(job.progress, 'utf8').trim()
    throw new Error(`call ${number} of seed ${job.seed} ended the process`, { cause })
  }
}

interface Loaded {
  readonly native: Native
  readonly maker: Maker
  /** What is wrong with the memory of the module. */
  readonly check: () => string | null
}

function loadAddon(): Loaded {
  return { native: load(packageRoot) as Native, maker: allocate, check: () => null }
}

function loadWasm(): Loaded {
  const module = loadModule(nodeHost, 'wasm')
  const binding: Binding = wasmNative(module, nodeHost, 'a test')
  // The addresses of operands that are not in the module yet are in here: beyond the end of the stack, which nothing uses.
  const unused = module.bytes(0, 1024)
  return {
    native: binding as Native,
    maker: allocateResident((byteLength) => binding.allocateHost?.(byteLength) ?? null),
    check: () => (unused.every((byte) => byte === 0) ? null : 'wrote to memory that is no operand'),
  }
}

async function run({ seed, first, count, devices = false, wasm = false, progress }: Job): Promise<Outcome> {
  const { native, maker, check: checkModule } = wasm ? loadWasm() : loadAddon()
  const validCall = validCalls(native, maker, wasm)
  const names = functionNames(native)
  const file = openSync(progress, 'w')
  const outcome: Outcome = { accepted: 0, refused: 0, mutatedAccepted: 0, failure: null }
  const deviceCalls = devices ? new DeviceCalls(native, randomFrom(seed)) : null
  for (let number = first; number < first + count; number++) {
    writeSync(file, String(number).padEnd(16), 0)
    const random = randomFrom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b))
    const kind = random()
    const call = deviceCalls?.next() ?? (kind < 0.06 ? junkCall(random, names) : validCall(random))
    const isMutated = kind < 0.75 || deviceCalls !== null
    if (isMutated && kind >= 0.06 && deviceCalls === null) mutate(random, call)
    const wrong = (await check(native, call, isMutated, outcome, deviceCalls)) ?? checkModule()
    if (wrong !== null) {
      outcome.failure = `call ${number} of seed ${seed}, ${call.name}: ${wrong}`
      break
    }
  }
  return outcome
}

/** Runs a call. Returns what is wrong with what it did. */
async function check(
  native: Native,
  call: Call,
  isMutated: boolean,
  outcome: Outcome,
  deviceCalls: DeviceCalls | null,
): Promise<string | null> {
  const { blocks } = call
  for (const block of blocks) block.keep()
  let refusal: unknown = null
  // Work that an Async call waits for, so that what follows it here comes before its kernels.
  if (call.name.endsWith('Async')) pbkdf2('', '', 1000, 32, 'sha256', () => undefined)
  try {
    const result: unknown = functionOf(native, call.name)(...call.args)
    deviceCalls?.returned(call.name, result)
    if (result instanceof Promise) {
      // The binding must have its own copy of what it takes addresses from.
      for (const block of blocks.filter(({ view }) => view instanceof Int32Array && view.length > 0)) {
        block.view.fill(2 ** 30, 1)
        block.keep()
      }
      await result
    }
  } catch (error) {
    refusal = error
  }
  if (!blocks.every((block) => block.hasCanaries)) return 'wrote beside an array'
  if (refusal !== null) {
    outcome.refused++
    if (!(refusal instanceof Error)) return 'threw something that is no Error'
    if (refusal.name === 'RuntimeError') return `trapped: ${refusal.message}`
    const { code } = refusal as { code?: unknown }
    if ((OF_OPERATIONS.includes(call.name) || isRefused(call.name)) && !String(code).startsWith('ERR_LILY_')) {
      return `threw an error without a code: ${refusal.stack}`
    }
    if (!isMutated && !isRefused(call.name)) return `was refused: ${refusal.message}`
    if (!blocks.every((block) => block.isUnchanged)) return `has written, then refused: ${refusal.message}`
    return null
  }
  if (isRefused(call.name)) return 'was not refused'
  outcome.accepted++
  if (isMutated) outcome.mutatedAccepted++
  const isWritten = blocks.some((block) => !block.isOutput && !block.isUnchanged && !(block.view instanceof Int32Array))
  return !isMutated && isWritten ? 'wrote to an input' : null
}

answer(run)
