/**
 * The emulator: single instructions, kernels with known results, planted mistakes and their correct variants.
 *
 * @long
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, test, type TestContext } from 'vitest'
import { buildEmulator, compareEmulator, runInstructionTests, runKernel } from '../support/emulator.js'

const SEEDS = ['0', '1', '2', '3', '4', '5', '6', '7']
const ORDERS = Array.from({ length: 16 }, (_, i) => String(i))
const FINDING = 99

let missing: string | undefined
beforeAll(() => {
  missing = buildEmulator()
  if (missing !== undefined) console.log(`the programs of emulator/kernels are skipped: ${missing}`)
}, 900_000)

function needsKernels(context: TestContext) {
  if (missing !== undefined) context.skip(missing)
}

test('instructions do what the PTX ISA says', () => {
  const { code, text } = runInstructionTests()
  expect(code, text).toBe(0)
  expect(text).toMatch(/^[1-9][0-9]+ checks, 0 failed$/m)
})

describe.for(['75', '80', '90', '120'])('compute_%s', (ARCH) => {
  test.for(['reduction', 'softmax', 'layer_norm', 'streams', 'spaces'])('%s is right', (name, context) => {
    needsKernels(context)
    for (const SEED of ['0', '1', '5']) {
      const { code, text } = runKernel('numerics', [name], { ARCH, SEED })
      expect(text).toMatch(/^right /m)
      expect(code, text).toBe(0)
    }
  })

  // Turing's tensor cores support half only.
  test.for(ARCH === '75' ? ['half'] : ['half', 'bfloat16'])('the %s matrix product is right', (type, context) => {
    needsKernels(context)
    for (const SEED of ['0', '1', '5']) {
      const { code, text } = runKernel('matrix_product', [type], { ARCH, SEED })
      expect(text).toMatch(/^right /m)
      expect(code, text).toBe(0)
    }
  })
})

describe.for(['80', '90'])('a mistake in the matrix product for compute_%s', (ARCH) => {
  // The exit code for every seed: 1 for a wrong result, or that of a finding.
  test.for([
    ['swapped_operands', 1],
    ['dropped_transpose', 1],
    ['weak_wait', FINDING],
    ['missing_barrier', FINDING],
    ['off_by_one', FINDING],
  ] as const)('%s is caught', ([mutation, expected], context) => {
    needsKernels(context)
    for (const type of ['half', 'bfloat16'])
      for (const SEED of SEEDS) {
        const { code, text } = runKernel('matrix_product', [`${type}_${mutation}`], { ARCH, SEED })
        expect(code, `${type}, seed ${SEED}: ${text}`).toBe(expected)
        expect(text).toContain(expected === FINDING ? 'FINDING' : 'WRONG')
      }
  })
})

const kernels = new URL('../../emulator/kernels/', import.meta.url)

/** The lines of the sources that end with `finding: ... NAME`, as `file:line`. */
function plantedAt(name: string): string[] {
  return readdirSync(kernels).flatMap((file) =>
    readFileSync(new URL(file, kernels), 'utf8')
      .split('\n')
      .flatMap((line, i) => {
        const names = / finding: (.*)/.exec(line)?.[1].split(' ') ?? []
        return names.includes(name) ? [`${file}:${i + 1}`] : []
      }),
  )
}

describe('a planted mistake', () => {
  test.for([
    ['global_bounds', 'out of bounds'],
    ['shared_bounds', 'out of bounds'],
    ['local_bounds', 'out of bounds'],
    ['parameter_bounds', 'out of bounds'],
    ['misaligned', 'misaligned'],
    ['uninitialised_shared', 'uninitialised read'],
    ['uninitialised_global', 'uninitialised read'],
    ['use_after_free', 'use after free'],
    ['shared_race', 'shared race'],
    ['global_race', 'global race'],
    ['early_read', 'async copy'],
    ['divergent_operation', 'divergent warp operation'],
    ['absent_lane', 'absent lane'],
    ['divergent_barrier', 'divergent barrier'],
    ['deadlock', 'deadlock'],
    ['early_product', 'async product'],
    ['product_fence', 'async product'],
    ['product_proxy', 'proxy fence'],
    ['product_overwrite', 'async product'],
    ['product_divergence', 'divergent warp operation'],
    ['dependent_read', 'no wait'],
    ['dependent_write', 'no wait'],
    ['dependent_exit', 'no wait'],
    ['dependent_barrier', 'no wait'],
    ['dependent_chain', 'no wait'],
    ['dependent_graph', 'no wait'],
  ])('%s is found with its line, and its correct variant has no finding', ([name, kind], context) => {
    needsKernels(context)
    const places = plantedAt(name)
    expect(places.length).toBeGreaterThan(0)
    for (const SEED of SEEDS) {
      const bug = runKernel('planted', [name, 'bug'], { SEED })
      expect(bug.code, `seed ${SEED}: ${bug.text}`).toBe(FINDING)
      const found = bug.text.slice(bug.text.indexOf('FINDING'))
      expect(found).toContain(`[${kind}]`)
      expect(found).toMatch(/block \(\d+,\d+,\d+\) thread \(\d+,\d+,\d+\)/)
      expect(
        places.some((place) => found.includes(place)),
        `${places.join(' or ')}: ${found}`,
      ).toBe(true)
      const clean = runKernel('planted', [name, 'clean'], { SEED })
      expect(clean.text, `seed ${SEED}`).toBe(`right ${name}\n`)
      expect(clean.code).toBe(0)
    }
  })

  test.for([
    ['leak', '256 bytes of device memory'],
    ['leak_pinned', '256 bytes of pinned memory'],
    ['leak_stream', 'a stream'],
    ['leak_event', 'an event'],
    ['leak_graph', 'an executable graph'],
  ])('%s is found at exit', ([name, what], context) => {
    needsKernels(context)
    const bug = runKernel('planted', [name, 'bug'])
    expect(bug.code, bug.text).toBe(FINDING)
    expect(bug.text.match(/FINDING/g)).toHaveLength(1)
    expect(bug.text).toContain(`FINDING [leak] device 0: ${what}`)
    expect(runKernel('planted', [name, 'bug'], { LEAKS: '0' })).toEqual({ code: 0, text: `right ${name}\n` })
    expect(runKernel('planted', [name, 'clean'])).toEqual({ code: 0, text: `right ${name}\n` })
  })

  test('destroyed_context is found', (context) => {
    needsKernels(context)
    const { code, text } = runKernel('planted', ['destroyed_context', 'bug'])
    expect(code, text).toBe(FINDING)
    expect(text).toContain('FINDING [destroyed context]')
    expect(runKernel('planted', ['destroyed_context', 'clean'])).toEqual({ code: 0, text: 'right destroyed_context\n' })
  })

  // Unordered work in two streams is found regardless of the order in which it ran.
  test.for(['missing_event', 'unordered_copy', 'unordered_graph'])(
    '%s is found in every order of the work',
    (name, context) => {
      needsKernels(context)
      for (const ORDER of ORDERS) {
        const { code, text } = runKernel('planted', [name, 'bug'], { ORDER })
        expect(code, text).toBe(FINDING)
        expect(text).toContain('[unordered work]')
        const clean = runKernel('planted', [name, 'clean'], { ORDER })
        expect(clean, `order ${ORDER}`).toEqual({ code: 0, text: `right ${name}\n` })
      }
    },
  )

  // Without that check, the mistake shows only in the orders in which it does harm; so does memory that is freed too early.
  test.for([
    ['missing_event', 1],
    ['unordered_copy', 1],
    ['early_free', FINDING],
  ] as const)('%s shows in several orders without the check for unordered work', ([name, expected], context) => {
    needsKernels(context)
    expect(runKernel('planted', [name, 'clean'])).toEqual({ code: 0, text: `right ${name}\n` })
    const codes = ORDERS.map((ORDER) => runKernel('planted', [name, 'bug'], { ORDER, GLOBAL_RACES: '0' }).code)
    expect(codes.filter((code) => code === expected).length, codes.join(' ')).toBeGreaterThanOrEqual(3)
    expect(codes.filter((code) => code === 0).length, codes.join(' ')).toBeGreaterThanOrEqual(1)
  })

  test('an unordered read names both pieces of work, their streams and the byte', (context) => {
    needsKernels(context)
    const { text } = runKernel('planted', ['unordered_copy', 'bug'], { ORDER: '0' })
    expect(text).toMatch(/a copy in stream \d+ reads byte 0 of 256 bytes of device memory created by call \d+/)
    expect(text).toMatch(/which the kernel add_one\(float\*, int\) in stream \d+ writes/)
  })
})

describe('the runtime', () => {
  const cases = ['devices', 'attributes', 'errors', 'memory', 'capture', 'graph', 'legacy', 'host_functions', 'polling']
  test.for([...cases, 'threads', 'ordered', 'contexts'])('%s', (name, context) => {
    needsKernels(context)
    for (const SEED of ['0', '1', '5']) {
      const { code, text } = runKernel('runtime', [name], { SEED })
      expect(text).toContain(`right ${name}\n`)
      expect(code, text).toBe(0)
    }
  })

  test('reports the devices that the environment configures', (context) => {
    needsKernels(context)
    const devices = (settings: Record<string, string>) => runKernel('runtime', ['devices'], settings)
    expect(devices({ DRIVER: 'none' }).text).toContain('cudaErrorInsufficientDriver: 0 devices, driver 0,')
    expect(devices({ DRIVER: 'old' }).text).toContain('cudaErrorInsufficientDriver')
    expect(devices({ DRIVER: 'nodevice' }).text).toContain('cudaErrorNoDevice')
    const { text } = devices({ ARCH: '90', SMS: '132', DEVICES: '1' })
    expect(text).toContain('cudaSuccess: 1 devices')
    expect(text).toMatch(/device 0: sm_90, \d+ bytes, 132 multiprocessors/)
    expect(devices({ NO_SUCH_VARIABLE: '1' }).code).toBe(98)
  })

  test('creates contexts for the calls that need one, and for the used devices only', (context) => {
    needsKernels(context)
    const created = (name: string) => [
      ...runKernel('runtime', [name], { VERBOSE: '1' }).text.matchAll(
        /(\w+) creates the primary context of device (\d)/g,
      ),
    ]
    expect(created('contexts').map(([, call, device]) => [call, device])).toEqual([
      ['cuDevicePrimaryCtxRetain', '1'],
      ['cudaStreamSynchronize', '1'],
    ])
    // cudaSetDevice creates one.
    expect(created('devices').map(([, call, device]) => [call, device])).toEqual([['cudaSetDevice', '1']])
    // A call that releases something does, too, if the thread has none.
    expect(created('errors')[0]?.[1]).toBe('cudaFree')
  })

  test('fails at the call that the environment selects', (context) => {
    needsKernels(context)
    const settings = { FAIL_CALL: 'cudaMalloc:1', FAIL_ERROR: 'cudaErrorMemoryAllocation', LEAKS: '0' }
    for (const how of [settings, { MEMORY_LIMIT: '500', LEAKS: '0' }]) {
      const { code, text } = runKernel('runtime', ['memory'], how)
      expect(text).toContain('cudaErrorMemoryAllocation')
      expect(code).not.toBe(0)
    }
  })
})

describe('a setting', () => {
  test('FAST=1 gives right results, with bounds as the only check', (context) => {
    needsKernels(context)
    for (const name of ['reduction', 'softmax', 'layer_norm', 'streams'])
      expect(runKernel('numerics', [name], { FAST: '1' })).toMatchObject({ code: 0 })
    for (const type of ['half', 'bfloat16']) {
      const { code, text } = runKernel('matrix_product', [type], { FAST: '1' })
      expect(text).toMatch(/^right /m)
      expect(code).toBe(0)
    }
    for (const name of ['early_product', 'product_proxy'])
      expect(runKernel('planted', [name, 'clean'], { FAST: '1' })).toEqual({ code: 0, text: `right ${name}\n` })
    for (const name of ['shared_race', 'uninitialised_shared', 'product_proxy'])
      expect(runKernel('planted', [name, 'bug'], { FAST: '1' }).text).not.toContain('FINDING')
    for (const name of ['global_bounds', 'shared_bounds']) {
      const { code, text } = runKernel('planted', [name, 'bug'], { FAST: '1' })
      expect(text).toContain('[out of bounds]')
      expect(code).toBe(FINDING)
    }
  })

  test('RACES=0 and GLOBAL_RACES=0 each switch off one of the race checks', (context) => {
    needsKernels(context)
    const found = (name: string, settings: Record<string, string>) =>
      runKernel('planted', [name, 'bug'], settings).text.includes('FINDING')
    expect(found('shared_race', { RACES: '0' })).toBe(false)
    expect(found('shared_race', { GLOBAL_RACES: '0' })).toBe(true)
    expect(found('global_race', { RACES: '0' })).toBe(true)
    expect(found('global_race', { GLOBAL_RACES: '0' })).toBe(false)
  })

  test('MEMORY is the size of the devices, MEMORY_LIMIT the limit for allocations', (context) => {
    needsKernels(context)
    const total = (MEMORY: string) => /sm_90, (\d+) bytes/.exec(runKernel('runtime', ['devices'], { MEMORY }).text)?.[1]
    expect(total('3G')).toBe(String(3 * 2 ** 30))
    expect(total('5M')).toBe(String(5 * 2 ** 20))
    expect(total('7K')).toBe('7168')
    expect(total('1234567')).toBe('1234567')
    expect(runKernel('runtime', ['devices'], { MEMORY: '1T' }).code).toBe(98)
    // The case allocates 1000 bytes of device memory.
    const memory = (settings: Record<string, string>) => runKernel('runtime', ['memory'], { ...settings, LEAKS: '0' })
    for (const name of ['MEMORY', 'MEMORY_LIMIT']) {
      expect(memory({ [name]: '1000' })).toEqual({ code: 0, text: 'right memory\n' })
      const { code, text } = memory({ [name]: '999' })
      expect(text).toContain('cudaErrorMemoryAllocation')
      expect(code).toBe(2)
    }
  })

  test('COUNTERS names the file for the counters', (context) => {
    needsKernels(context)
    const folder = mkdtempSync(join(tmpdir(), 'lily-emulator-'))
    runKernel('matrix_product', ['bfloat16'], { COUNTERS: join(folder, 'counters-%p.json') })
    const [file] = readdirSync(folder)
    expect(file).toMatch(/^counters-\d+\.json$/)
    type Counters = Record<string, number>
    type Kernel = Counters & { lines: (Counters & { file: string; line: number })[] }
    const text = readFileSync(join(folder, file), 'utf8')
    rmSync(folder, { recursive: true })
    const counted = (JSON.parse(text) as { kernels: Record<string, Kernel> }).kernels
    const [name, ...others] = Object.keys(counted)
    expect(name).toContain('matrix_product')
    expect(others).toEqual([])
    const kernel = counted[name]
    // C [37, 40] = A [37, 168] B [168, 40]: 4 blocks of 4 warps, 6 steps of 2 x k = 16, each with 2 ldmatrix and 2 mma.
    const warps = 4 * 4
    const matrices = warps * 6 * 2 * 2
    const copies = warps * 6 * 2
    expect(kernel).toMatchObject({
      launches: 1,
      matrix_instructions: matrices,
      barriers: 4 * 6,
      // ldmatrix .x4 has four wavefronts. In a copy, eight lanes write two rows of 64 bytes, 80 bytes apart, which share
      // banks: twice the wavefronts that 512 bytes require.
      shared_requests: matrices + copies,
      shared_wavefronts: 4 * matrices + 8 * copies,
      shared_wavefronts_ideal: 4 * matrices + 4 * copies,
      // All of A and B is read, and all of C is written, at least once.
      distinct_sectors_read: Math.ceil((37 * 168 * 2) / 32) + (168 * 40 * 2) / 32,
      distinct_sectors_written: (37 * 40 * 4) / 32,
    })
    const { lines } = kernel
    const source = readFileSync(new URL('tensor_core.cuh', kernels), 'utf8').split('\n')
    for (const key of ['thread_instructions', 'global_sectors', 'shared_wavefronts', 'matrix_instructions'])
      expect(lines.reduce((sum, line) => sum + line[key], 0)).toBe(kernel[key])
    const withMatrices = lines.filter((line) => line['matrix_instructions'] > 0)
    expect(withMatrices.length).toBeGreaterThan(0)
    for (const { file, line } of withMatrices) {
      expect(file).toMatch(/tensor_core\.cuh$/)
      // nvcc gives an assembly statement the line of its operands.
      expect(source.slice(line - 5, line).join()).toContain('mma.sync')
    }
  })
})

describe('the comparison with a GPU, with the emulator instead of the GPU', () => {
  let folder = ''
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'lily-emulator-'))
    return () => rmSync(folder, { recursive: true })
  })

  test.for(['75', '80', '90'])('compute_%s agrees with itself under another schedule', (ARCH, context) => {
    needsKernels(context)
    const { code, text } = compareEmulator(['--emulated-twice'], ARCH)
    expect(text).toMatch(
      /^[1-9][0-9]+ exact results agree, [1-9][0-9]* approximate results with [0-9]+ values, 0 differences$/m,
    )
    expect(code, text).toBe(0)
  })

  test('results can be recorded on one machine and compared on another', (context) => {
    needsKernels(context)
    const file = join(folder, 'recorded')
    expect(compareEmulator(['--emulated-twice', '--record', file], '80').code).toBe(0)
    // The architecture comes from the file.
    const { code, text } = compareEmulator(['--against', file], '75')
    expect(text).toContain(', 0 differences')
    expect(code).toBe(0)
  })

  // --wrong changes one result of each line: an exact one by a bit, an approximate one by 1% more than its bound.
  test.for(['one case', 'all cases'])('every difference in %s is detected', (which, context) => {
    needsKernels(context)
    const file = join(folder, 'before')
    compareEmulator(['--emulated-twice', '--record', file], '80')
    const results = readFileSync(file, 'utf8')
      .split('\n')
      .map((line) => line.split('\t'))
      .filter(([, kind]) => kind === 'exact' || kind === 'near')
    const wrong = which === 'one case' ? ['numerics:softmax'] : [...new Set(results.map(([name]) => name))]
    const lines = results.filter(([name]) => wrong.includes(name)).length
    const { code, text } = compareEmulator(['--emulated-twice', ...wrong.flatMap((name) => ['--wrong', name])], '80')
    expect(code, text).toBe(1)
    expect(text.match(/^DIFFERS .*$/gm)).toHaveLength(lines)
    expect(text).toContain(`, ${lines} differences`)
  })

  test('says why it cannot compare', () => {
    expect(compareEmulator(['--against', join(folder, 'nothing')], '80')).toMatchObject({ code: 2 })
    expect(compareEmulator(['--frob'], '80').text).toContain('unknown option --frob')
  })
})
