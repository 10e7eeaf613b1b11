/**
 * `bench:peers`: the protocol and the order of the samples with a fake peer, and the outputs of the real peers that this
 * machine has. The tests check that times exist, not their values.
 *
 * @long
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { disagreement } from '../../bench/peers/agreement.js'
import { OURS, ourContender, peerContender } from '../../bench/peers/contender.js'
import { measureCase } from '../../bench/peers/measure.js'
import { PeerProcess } from '../../bench/peers/peer-process.js'
import {
  onnxRuntime,
  type Peer,
  pytorch,
  pytorchEnvironment,
  startPeers,
  type Started,
  tensorflowJs,
} from '../../bench/peers/peers.js'
import {
  type Adapter,
  adapters,
  evenlySpaced,
  layers,
  type Missing,
  type PeerMethod,
} from '../../bench/peers/protocol.js'
import { interruptSignal, measurement, writeReport } from '../../bench/peers/program.js'
import { peersMarkdown, type PeersReport } from '../../bench/peers/report.js'
import { passes } from '../../bench/methods/methods.js'
import type { Case } from '../../bench/workload/cases.js'
import { dtypeNames } from '../../bench/workload/dtypes.js'

const folder = mkdtempSync(join(tmpdir(), 'lily-peers-'))
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

const benchCase: Case = { shape: { tokens: 3, d: 8, rank: 2, experts: 2 }, dtype: 'float32', routing: 'batch' }
const limits = { seconds: 0, rounds: 2, signal: new AbortController().signal }

/** A peer that writes every request to a file, and answers with what the environment says. */
const fake = `
  import { appendFileSync } from 'node:fs'
  import { createInterface } from 'node:readline'
  const { NAME, LOG, OUTPUTS = '{}', SECONDS = '1', FAILS = '', ENDS = '', HELLO } = process.env
  const send = (message) => process.stdout.write(JSON.stringify(message) + '\\n')
  process.stdout.write((HELLO ?? JSON.stringify({ versions: { [NAME]: '1.0' }, methods: [{ name: 'm', adapter: 'lily',
    passes: ['forward', 'forward+backward'], dtypes: ['float32'] }], missing: [] })) + '\\n')
  for await (const line of createInterface({ input: process.stdin })) {
    const { request, pass = '', method = '', warmup, calls } = JSON.parse(line)
    appendFileSync(LOG, [NAME, request, method, pass, warmup, calls].filter((part) => part).join(' ') + '\\n')
    if (request === ENDS) { console.error('Traceback\\nout of luck'); process.exit(3) }
    if (request === FAILS) send({ error: 'no memory' })
    else if (request === 'outputs') send({ outputs: JSON.parse(OUTPUTS) })
    else if (request === 'sample') send({ seconds: Number(SECONDS) })
    else send({})
  }`
const program = join(folder, 'fake.mjs')
writeFileSync(program, fake)
let logs = 0
const newLog = (): string => {
  const log = join(folder, `log-${logs++}`)
  writeFileSync(log, '')
  return log
}
const commandOf = (env: Record<string, string>) => ({ command: process.execPath, args: [program], env })
const method: PeerMethod = { name: 'm', adapter: 'lily', passes, dtypes: ['float32'] }

/** Measures a case with two fake peers, the first of which stands for this package. */
async function measureFakes(env: Record<string, string>) {
  const log = newLog()
  const outputs = JSON.stringify({ y: [1, 2, 3], dx: [4] })
  const [ours, other] = await Promise.all([
    PeerProcess.start(commandOf({ NAME: 'ours', LOG: log, OUTPUTS: outputs, SECONDS: '2' })),
    PeerProcess.start(commandOf({ NAME: 'other', LOG: log, OUTPUTS: outputs, SECONDS: '5', ...env })),
  ])
  const missing: Missing[] = []
  try {
    const contenders = [peerContender(OURS, ours.peer, method), peerContender('other', other.peer, method)]
    const rows = await measureCase(contenders, benchCase, limits, missing)
    return { rows, missing, log: readFileSync(log, 'utf8').trim().split('\n') }
  } finally {
    ours.peer.stop()
    other.peer.stop()
  }
}

describe('with fake peers', () => {
  test('all contenders are sampled in turn, after untimed calls, and ratios are to this package', async () => {
    const { rows, missing, log } = await measureFakes({})
    expect(missing).toEqual([])
    expect(rows).toMatchObject(
      passes.map((pass) => ({
        ...benchCase,
        pass,
        adapter: 'lily',
        results: [
          { contender: OURS, median: 2, ratioToOurs: 1, ratioToLayer: null, samples: 2 },
          { contender: 'other', median: 5, ratioToOurs: 2.5, ratioToLayer: null, samples: 2 },
        ],
      })),
    )
    const opening = ['open m', 'outputs m']
    expect(log.slice(0, 4)).toEqual([
      ...opening.map((line) => `ours ${line}`),
      ...opening.map((line) => `other ${line}`),
    ])
    for (const pass of passes) {
      const samples = log.filter((line) => line.includes(` ${pass} `))
      expect(samples.slice(-4)).toEqual(
        ['ours', 'other', 'ours', 'other'].map((name) => `${name} sample m ${pass} 0.02 1`),
      )
    }
    expect(log.slice(-2)).toEqual(['ours close', 'other close'])
  })

  test('the time with an adapter is compared with the frozen layer of the same contender', async () => {
    const log = newLog()
    // By contender and adapter: seconds per call.
    const seconds = {
      [OURS]: { layer: 4, 'lily-layer': 5 },
      other: { layer: 10, 'lily-layer': 20 },
      bare: { 'lily-layer': 9 },
    }
    const started = await Promise.all(
      Object.entries(seconds).flatMap(([name, times]) =>
        Object.entries(times).map(async ([adapter, time]) => {
          const env = { NAME: name, LOG: log, OUTPUTS: '{"y":[1]}', SECONDS: String(time) }
          const { peer } = await PeerProcess.start(commandOf(env))
          return { peer, contender: peerContender(name, peer, { ...method, adapter: adapter as Adapter }) }
        }),
      ),
    )
    const missing: Missing[] = []
    const contenders = started.map(({ contender }) => contender)
    const rows = await measureCase(contenders, benchCase, limits, missing)
    for (const { peer } of started) peer.stop()
    expect(missing).toEqual([])
    expect(rows.map(({ adapter, pass }) => [adapter, pass])).toEqual(
      passes.flatMap((pass) => ['layer', 'lily-layer'].map((adapter) => [adapter, pass])),
    )
    for (const { adapter, results } of rows) {
      const ratios = results.map(({ contender, ratioToOurs, ratioToLayer }) => [contender, ratioToOurs, ratioToLayer])
      if (adapter === 'layer')
        expect(ratios).toEqual([
          [OURS, 1, null],
          ['other', 2.5, null],
        ])
      else
        expect(ratios).toEqual([
          [OURS, 1, 1.25],
          ['other', 4, 2],
          ['bare', 1.8, null],
        ])
    }
  })

  test.each([
    ['whose outputs differ', { OUTPUTS: '{"y":[1,2,4],"dx":[4]}' }, 'y differs by 0.27'],
    ['whose outputs have another length', { OUTPUTS: '{"y":[1,2],"dx":[4]}' }, 'y differs by Infinity'],
    ['whose outputs are not numbers', { OUTPUTS: '{"y":[1,2,null],"dx":[4]}' }, 'y differs by'],
    ['without y', { OUTPUTS: '{"dx":[4]}' }, 'no y'],
    ['that fails to open', { FAILS: 'open' }, 'no memory'],
    ['that ends when it opens', { ENDS: 'open' }, 'the peer has ended: out of luck'],
  ])('a peer %s is not measured, and the reason is reported', async (_, env, reason) => {
    const { rows, missing } = await measureFakes(env)
    expect(missing).toHaveLength(1)
    expect(missing[0].name).toBe('other, lily, 3, 8, 2, 2, float32')
    expect(missing[0].reason).toContain(reason)
    expect(rows.map(({ results }) => results.map(({ contender }) => contender))).toEqual([[OURS], [OURS]])
  })

  test.each([
    [{ ENDS: 'sample' }, 'other, lily: the peer has ended: out of luck'],
    [{ FAILS: 'sample' }, 'other, lily: no memory'],
    [{ SECONDS: '0' }, 'other, lily: the peer returned 0 seconds'],
  ])('a pass in which a sample fails (%j) is reported', async (env, reason) => {
    const { rows, missing } = await measureFakes(env)
    expect(rows).toEqual([])
    expect(missing.map(({ name }) => name)).toEqual(passes.map((pass) => `3, 8, 2, 2, float32, ${pass}`))
    expect(missing[0].reason).toBe(reason)
  })

  const peerOf = (name: string, command: Peer['command']): Peer => ({
    name,
    install: `install ${name}`,
    command,
    title: (each) => `${name} ${each}`,
  })

  test('peers that do not start are missing, with how to install them', async () => {
    const LOG = newLog()
    const { contenders, versions, missing, stop } = await startPeers(
      [
        peerOf('absent', () => ({ reason: 'not here' })),
        peerOf('broken', () => ({
          command: process.execPath,
          args: ['-e', 'console.error("bad");process.exit(1)'],
          env: {},
        })),
        peerOf('unknown', () => ({ command: join(folder, 'none'), args: [], env: {} })),
        peerOf('talkative', () => commandOf({ NAME: 'talkative', LOG, HELLO: 'Loading...' })),
        peerOf('good', () => commandOf({ NAME: 'good', LOG })),
      ],
      { threads: 1, compiles: false },
    )
    stop()
    expect(missing.map(({ name, install }) => [name, install])).toEqual(
      ['absent', 'broken', 'unknown', 'talkative'].map((name) => [name, `install ${name}`]),
    )
    expect(missing[0].reason).toBe('not here')
    expect(missing[1].reason).toBe('the peer has ended: bad')
    expect(missing[2].reason).toContain('ENOENT')
    expect(missing[3].reason).toContain('not JSON: Loading...')
    expect(contenders.map(({ name }) => name)).toEqual(['good m'])
    expect(versions).toEqual({ good: '1.0' })
  })

  test('a run that is interrupted throws the reason', async () => {
    const signal = AbortSignal.abort()
    await expect(measureCase([ourContender('lily')], benchCase, { ...limits, signal }, [])).rejects.toThrow('aborted')
  })
})

test('the environment of PyTorch keeps freed memory and selects no other kernels', () => {
  const given = { PATH: '/bin', OPENBLAS_CORETYPE: 'Haswell', OPENBLAS_L2_SIZE: '1', OMP_NUM_THREADS: '7' }
  const env = pytorchEnvironment(2, given)
  expect(env).toMatchObject({ PATH: '/bin', OMP_NUM_THREADS: '2' })
  expect(Object.keys(env)).toEqual(expect.arrayContaining(['MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_']))
  expect(Object.keys(env).filter((name) => name.startsWith('OPENBLAS'))).toEqual([])
  expect(given.OPENBLAS_CORETYPE).toBe('Haswell')
})

test('outputs are compared at evenly spaced elements', () => {
  expect(evenlySpaced([5, 6, 7])).toEqual([5, 6, 7])
  expect(evenlySpaced([])).toEqual([])
  const many = evenlySpaced(Float32Array.from({ length: 10_000 }, (_, i) => i))
  expect(many).toHaveLength(3334)
  expect(many.at(-1)).toBe(9999)
})

test('the limits of agreement depend on the data type', () => {
  const [found, expected] = [{ y: [1.01] }, { y: [1] }]
  for (const dtype of ['float32', 'float16'] as const) {
    expect(disagreement(found, expected, dtype)).toContain('y differs by 0.010')
  }
  for (const dtype of ['bfloat16', 'mixed'] as const) expect(disagreement(found, expected, dtype)).toBeNull()
  // Not finite numbers become null in JSON.
  expect(disagreement({ y: [null as unknown as number] }, { y: [1] }, 'bfloat16')).toContain('y differs by 1.0')
})

test('the Markdown names the instruction set in every row, the command and what is missing', () => {
  const timing = { median: 0.001, spread: 0, samples: 3 }
  const report: PeersReport = {
    version: '1.2.3',
    measuredAt: '2000-01-02T03:04:05Z',
    command: 'npm run bench:peers',
    complete: false,
    machine: { device: 'Some CPU', instructionSet: 'avx2', threads: 2, platform: 'linux-x64' },
    versions: { PyTorch: '9.9' },
    environment: { OMP_NUM_THREADS: '2' },
    missing: [{ name: 'Fast', reason: 'not here', install: 'get fast' }],
    rows: passes.map((pass) => ({
      ...benchCase,
      adapter: 'lily',
      pass,
      results: [
        { contender: OURS, ...timing, ratioToOurs: 1, ratioToLayer: null },
        ...(pass === 'forward'
          ? [{ contender: 'Slow', ...timing, median: 0.0251, ratioToOurs: 25.1, ratioToLayer: null }]
          : []),
      ],
    })),
  }
  const text = peersMarkdown(report)
  expect(text).toContain('## Some CPU, avx2, 2 threads')
  expect(text).toContain('`npm run bench:peers`, lily-kernels 1.2.3, 2000-01-02, linux-x64. PyTorch 9.9.')
  expect(text).toContain('| 3, 8, 2, 2 | forward | avx2 | 1.000 | 25.1 (25.10) |')
  expect(text).toContain('| 3, 8, 2, 2 | forward + backward | avx2 | 1.000 | - |')
  expect(text).toContain('- Fast: not here; to install it: get fast')
  expect(text).toContain('Interrupted')
  expect(text).not.toContain('frozen layer')

  const [row] = report.rows
  const [ours, slow] = row.results
  const withLayer = peersMarkdown({
    ...report,
    rows: [
      { ...row, adapter: 'layer' },
      {
        ...row,
        adapter: 'lora-layer',
        results: [
          { ...ours, ratioToLayer: 1.104 },
          { ...slow, ratioToLayer: null },
        ],
      },
    ],
  })
  expect(withLayer).toContain('### The frozen layer alone, float32')
  expect(withLayer).toContain('### The frozen layer with LoRA, float32')
  expect(withLayer.split('### What LoRA adds to the frozen layer, float32')[1]).toContain(
    '| 3, 8, 2, 2 | forward | avx2 | 10 % | - |',
  )
})

// Ragged sizes; one token, for which a vector is one row; ranks below and above the tiles of a library.
const shapes = [
  { tokens: 33, d: 40, rank: 5, experts: 3 },
  { tokens: 1, d: 96, rank: 16, experts: 4 },
  { tokens: 130, d: 64, rank: 48, experts: 2 },
]

describe.each([pytorch, onnxRuntime, tensorflowJs])('$name', (peer) => {
  // One thread: threads of OpenMP that wait for each other while other tests use the processors take seconds.
  const options = { threads: 1, compiles: false }
  const found = peer.command(options)
  const why = 'reason' in found ? `${found.reason}; to install it: ${peer.install}` : null
  let started: Started
  beforeAll(async () => {
    if (why === null) started = await startPeers([peer], options)
  })
  afterAll(() => {
    started?.stop()
  })

  test.for(dtypeNames)('the outputs of every method agree with this package: %s', async (dtype, context) => {
    if (why !== null) return context.skip(why)
    const { contenders, missing } = started
    expect([...new Set(contenders.map(({ adapter }) => adapter))], JSON.stringify(missing)).toEqual([
      ...adapters,
      ...layers,
    ])
    const measured = contenders.filter((contender) => contender.measures({ ...benchCase, dtype }, 'forward'))
    if (measured.length === 0) return context.skip(`${peer.name} is measured in other data types`)
    for (const shape of shapes)
      for (const contender of measured) {
        const one: Case = { shape, dtype, routing: 'batch' }
        const ours = ourContender(contender.adapter)
        await ours.open(one)
        await contender.open(one)
        const [outputs, expected] = [await contender.outputs(), await ours.outputs()]
        const names = contender.measures(one, 'forward+backward') ? Object.keys(expected) : ['y']
        expect(Object.keys(outputs).sort()).toEqual(names.sort())
        expect(disagreement(outputs, expected, dtype), `${contender.name} ${JSON.stringify(one)}`).toBeNull()
        await contender.close()
      }
  })
})

test.each(['SIGINT', 'SIGTERM'] as const)('a run that %s has ended is reported as incomplete', (name) => {
  const [{ argv, exitCode }, file] = [process, join(folder, `${name}.json`)]
  const once = vi.spyOn(process, 'once').mockReturnThis()
  const signal = interruptSignal()
  const listeners = new Map(once.mock.calls as [string, () => void][])
  once.mockRestore()
  const log = vi.spyOn(console, 'log').mockImplementation(() => undefined)
  const reportOf = () => measurement('bench:peers', 'now', signal, { device: 'a', simd: 'avx2', threads: 1 })
  try {
    expect(reportOf().complete).toBe(true)
    listeners.get(name)?.()
    process.argv = [...argv.slice(0, 2), '--quick']
    const report = reportOf()
    expect(report).toMatchObject({ complete: false, command: 'npm run bench:peers -- --quick' })
    writeReport(report, 'a table', file)
    expect(process.exitCode).toBe(130)
    expect(log.mock.calls).toEqual([['a table']])
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(report)
  } finally {
    log.mockRestore()
    Object.assign(process, { argv, exitCode })
  }
})

const main = fileURLToPath(new URL('../../bench/peers/main.ts', import.meta.url))
const runProgram = (...args: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', main, ...args], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  })
/** A small problem that is measured for a moment. */
const brief = '--quick --no-compile --seconds 0.01 --threads 1 --dtype float32 --shape 3,8,2,2'.split(' ')

test.each([
  ['the adapters', [], adapters],
  ['the frozen layer, alone and with each adapter', ['--layer'], layers],
] as const)('the program measures %s and writes JSON and Markdown', (_, more, measured) => {
  const base = join(folder, `peers${more.length}`)
  const { status, stdout, stderr } = runProgram(...brief, '--output', base, ...more)
  expect(status, stderr).toBe(0)
  const report = JSON.parse(readFileSync(`${base}.json`, 'utf8')) as PeersReport
  expect(report).toMatchObject({ complete: true, machine: { threads: 1 } })
  expect(report.rows.map(({ pass, adapter }) => [pass, adapter])).toEqual(
    passes.flatMap((pass) => measured.map((adapter) => [pass, adapter])),
  )
  for (const { adapter, results } of report.rows) {
    expect(results[0]).toMatchObject({ contender: OURS, ratioToOurs: 1 })
    const hasLayer = adapter.endsWith('-layer')
    for (const { median, ratioToOurs, ratioToLayer } of results) {
      expect(Math.min(median, ratioToOurs)).toBeGreaterThan(0)
      if (hasLayer) expect(ratioToLayer).toBeGreaterThan(0)
      else expect(ratioToLayer).toBeNull()
    }
  }
  expect(readFileSync(`${base}.md`, 'utf8')).toBe(peersMarkdown(report))
  expect(stdout).toContain(peersMarkdown(report).trim())
})

test('with --peer the program measures the peers that are named, and refuses other names', () => {
  const base = join(folder, 'selected')
  const { status, stderr } = runProgram(...brief, '--peer', 'tfjs', '--output', base)
  expect(status, stderr).toBe(0)
  const { rows, missing } = JSON.parse(readFileSync(`${base}.json`, 'utf8')) as PeersReport
  expect(missing).toEqual([])
  for (const { results } of rows)
    expect(results.map(({ contender }) => contender)).toEqual([OURS, 'TensorFlow.js wasm'])

  const refused = runProgram(...brief, '--peer', 'numpy')
  expect(refused.status).toBe(1)
  expect(refused.stderr).toContain('--peer: expected one of pytorch, onnxruntime, tfjs; got numpy')
})
