/**
 * What the addon refuses and ensures by itself beside the calls that refusals.test.ts has.
 *
 * @asan
 */
import { spawnSync } from 'node:child_process'
import { pbkdf2 } from 'node:crypto'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import '../../lib/index.js'
import { native } from '../../lib/binding/native.js'
import { packageRoot } from '../../lib/binding/root.js'
import { gc } from '../support/collect.js'
import { argumentsOf, makeCall, operandsOf, refusal } from './fixed-calls.js'

test.each([
  ['backend', [2, -1, 0.5]],
  ['device', [1, -1, 2 ** 32]],
])('a %s that cannot exist', (name, values) => {
  for (const value of values) {
    const call = makeCall('forward')
    call.numbers[name] = value
    expect(() => {
      native.run(...argumentsOf(call))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', name))
  }
})

// V8 may collect an array that only the call refers to, and free its memory, while the call waits for a thread.
test.each([
  'forward',
  'backward',
  'linear',
  'matmul',
  'elementwise',
  'attention',
  'attentionBackward',
  'fold',
  'adamw',
] as const)('%s on another thread holds its operands until it ends', async (name) => {
  const threads = Number(process.env.UV_THREADPOOL_SIZE ?? 4)
  const busy = Array.from({ length: threads }, () => promisify(pbkdf2)('', '', 200_000, 8, 'sha512'))
  let isPending = true
  const start = () => {
    const call = makeCall(name)
    const held = operandsOf(call).map(({ memory }) => new WeakRef(memory as object))
    const done = native.runAsync(...argumentsOf(call)).finally(() => (isPending = false))
    return { held, done }
  }
  const { held, done } = start()
  await new Promise(setImmediate)
  gc()
  expect(isPending).toBe(true)
  expect(held.filter((operand) => operand.deref() === undefined)).toEqual([])
  await Promise.all([...busy, done])
  await new Promise(setImmediate)
  gc()
  expect(held.filter((operand) => operand.deref() !== undefined)).toEqual([])
})

describe('other functions', () => {
  test.each([-1, -0.5, NaN, Infinity, 2 ** 33, 2 ** 53, 2 ** 64])('measureRoof of %d bytes', (bytes) => {
    expect(() => native.measureRoof(0, 0, 1, bytes)).toThrow(refusal('ERR_LILY_ARGUMENT', 'byteLength'))
  })

  test('a roof, a backend and a device that do not exist', () => {
    expect(() => native.measureRoof(0, 0, 5, 64)).toThrow(refusal('ERR_LILY_ARGUMENT', 'roof'))
    expect(() => native.measureRoof(7, 0, 1, 64)).toThrow(refusal('ERR_LILY_ARGUMENT', 'backend'))
    expect(() => native.measureRoof(0, 1, 1, 64)).toThrow(refusal('ERR_LILY_ARGUMENT', 'device'))
    expect(() => native.poolStatistics(0, 1, false)).toThrow(refusal('ERR_LILY_ARGUMENT', 'device'))
  })

  test('sizes of matrices', () => {
    const [x, l] = [new Float64Array(6), new Float64Array(4)]
    for (const r of [0, -1, 1.5, NaN, 4097, 2 ** 62]) {
      expect(() => {
        native.gramFactor(x, r, 3, l)
      }).toThrow(refusal('ERR_LILY_ARGUMENT', 'the size of a matrix'))
    }
    expect(() => {
      native.gramFactor(x, 2, 4, l)
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'a matrix must be a typed array of at least 64 bytes'))
    expect(() => {
      native.gramFactor(x, 2, 3, l.subarray(1))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'a matrix must be a typed array of at least 32 bytes'))
    expect(() => {
      native.congruenceEigenvalues(l, x, 2, 3, new Float64Array(1))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'a matrix must be a typed array of at least 16 bytes'))
    const odd = new Uint8Array(new ArrayBuffer(40), 4) as unknown as Float64Array
    expect(() => {
      native.gramFactor(x, 2, 3, odd)
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'aligned to 8'))
  })

  test('files that are not open', () => {
    for (const file of [NaN, -1, 0.5, 2 ** 32]) {
      expect(() => native.fileLock(file, false)).toThrow(refusal('ERR_LILY_ARGUMENT', 'fd'))
    }
    expect(() => native.fileLock(2 ** 31 - 1, false)).toThrow(refusal('ERR_LILY_ARGUMENT', 'fd is not an open file'))
  })

  // With no threads there is no scratch memory for a thread.
  test('every computation with an invalid LILY_NUM_THREADS', () => {
    const program = `
      const native = require('node-gyp-build')(${JSON.stringify(packageRoot)})
      const m = new Float64Array(4)
      for (const call of [
        () => native.gramFactor(m, 2, 2, new Float64Array(4)),
        () => native.congruenceEigenvalues(m, m, 2, 2, new Float64Array(2)),
        () => native.measureRoof(0, 0, 1, 64),
      ]) try { call(); console.log('ran') } catch (error) { console.log(error.code) }`
    const { stdout } = spawnSync(process.execPath, ['-e', program], {
      cwd: packageRoot,
      env: { ...process.env, LILY_NUM_THREADS: '0' },
      encoding: 'utf8',
    })
    expect(stdout.trim().split('\n')).toEqual(new Array<string>(3).fill('ERR_LILY_BACKEND_UNAVAILABLE'))
  })
})
