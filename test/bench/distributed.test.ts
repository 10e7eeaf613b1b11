/**
 * `bench:distributed`: its table, what it refuses, and the model of a network. test/mpi/bench.test.ts runs it.
 *
 * @project cpu
 */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { adapters, BLOCKS } from '../../bench/distributed/adapters.js'
import { measureBytes } from '../../bench/distributed/measure.js'
import {
  LARGEST_PIECE,
  exposedSeconds,
  type Network,
  ringSeconds,
  sentBytes,
  sentMessages,
  sliceSeconds,
} from '../../bench/distributed/network.js'
import { gradientOf, hashOf, type Reply, type Request, type Way } from '../../bench/distributed/protocol.js'
import { distributedMarkdown, type DistributedReport } from '../../bench/distributed/report.js'
import { DEFAULTS, tablesOf } from '../../bench/distributed/tables.js'
import { packageRoot } from '../../lib/binding/root.js'

const timing = { spread: 0, samples: 3 }
const report: DistributedReport = {
  version: '1.2.3',
  measuredAt: '2000-01-02T03:04:05Z',
  command: 'npm run bench:distributed',
  complete: false,
  machine: { device: 'Some CPU', instructionSet: 'avx2', threads: 1, platform: 'linux-x64' },
  versions: { Node: 'v9.9' },
  ranks: 2,
  missing: [{ name: 'MPICH', reason: 'there is no mpicc.mpich', install: 'get it' }],
  rows: [
    {
      library: 'Open MPI 9.9',
      bytes: 2 ** 20,
      results: [
        { ...timing, way: 'MPI_Allreduce', median: 0.001, spread: 0.3, ratioToC: 1 },
        { ...timing, way: 'array', median: 0.0012, ratioToC: 1.25 },
        { ...timing, way: 'model', median: 0.0015, ratioToC: 1.5 },
      ],
    },
  ],
}

test('the table has times and ratios', () => {
  const text = distributedMarkdown(report)
  expect(text).toContain('## Averages of gradients, 2 ranks on Some CPU, avx2, 1 thread each')
  expect(text).toContain('`npm run bench:distributed`, lily-kernels 1.2.3, 2000-01-02, linux-x64. Node v9.9.')
  expect(text).toContain('| Open MPI 9.9 | 1 | 1.00 ± 30 % ! | 1.20 ± 0 % | 1.50 ± 0 % | 1.25 | 1.50 |')
  expect(text).toContain('!: 1 of 3 times have a spread of more than ±25 %')
  expect(text).toContain('- MPICH: there is no mpicc.mpich; to install it: get it')
  expect(text).toContain('Interrupted')
})

/** A job that answers with these hashes, and with a number of seconds for each way. */
function job(hashes: Partial<Record<Way, number>>, seconds: Partial<Record<Way, number>>, log: Request[] = []) {
  const answer = (request: Request): Reply =>
    request.request === 'open' ? { hashes } : { seconds: seconds[request.way] ?? 0 }
  return {
    request: (request: Request) => {
      log.push(request)
      return Promise.resolve(answer(request))
    },
  }
}
const limits = { seconds: 0, rounds: 2, sampleSeconds: 0, signal: new AbortController().signal }

test('both jobs are sampled in turn, and ratios are to MPI_Allreduce', async () => {
  const log: Request[] = []
  const c = job({ MPI_Allreduce: 7 }, { MPI_Allreduce: 2 }, log)
  const ours = job({ array: 7, model: 7 }, { array: 3, model: 5 }, log)
  const row = await measureBytes({ c, ours }, 'Some MPI', 1024, limits)
  expect(row).toMatchObject({
    library: 'Some MPI',
    bytes: 1024,
    results: [
      { way: 'MPI_Allreduce', median: 2, ratioToC: 1, samples: 2 },
      { way: 'array', median: 3, ratioToC: 1.5 },
      { way: 'model', median: 5, ratioToC: 2.5 },
    ],
  })
  const sampled = log.flatMap((request) => (request.request === 'sample' ? [request.way] : []))
  expect(sampled.slice(-6)).toEqual(['MPI_Allreduce', 'array', 'model', 'MPI_Allreduce', 'array', 'model'])
})

test.each([
  ['other bits', { array: 7, model: 8 }, { array: 1, model: 1 }, 'the averages of model and MPI_Allreduce differ'],
  ['no bits', { array: 7 }, { array: 1, model: 1 }, 'the averages of model and MPI_Allreduce differ'],
  ['no time', { array: 7, model: 7 }, { array: 1 }, 'model took 0 seconds'],
])('a job with %s is refused', async (_, hashes, seconds, message) => {
  const jobs = { c: job({ MPI_Allreduce: 7 }, { MPI_Allreduce: 1 }), ours: job(hashes, seconds) }
  await expect(measureBytes(jobs, 'Some MPI', 1024, limits)).rejects.toThrow(message)
})

test('ranks have other gradients, and parts of an array the hash of the whole', () => {
  const [first, second] = [0, 1].map((rank) => Float32Array.from({ length: 500 }, (_, i) => gradientOf(i, rank)))
  expect(hashOf(first)).not.toBe(hashOf(second))
  expect(hashOf(first.subarray(99), hashOf(first.subarray(0, 99)))).toBe(hashOf(first))
  expect(hashOf(Float32Array.of(1))).toBe(Number(((2166136261n ^ 0x3f800000n) * 16777619n) % 2n ** 32n))
})

const network: Network = { alpha: 2, beta: 10 }

test('the model counts messages', () => {
  // A rank of four sends three quarters of the gradients to their owners, and its own quarter of the sums to three others.
  expect(sentBytes(4, 400)).toBe(600)
  expect(ringSeconds(network, 4, 400)).toBeCloseTo(6 * (2 + 100 / 10), 9)
  const [piece, header] = [LARGEST_PIECE, 144]
  // A piece for each rank, then four for each, and pieces of a quarter of a bucket.
  expect(sentMessages(4, 4 * piece, Infinity)).toBe(3 + 6)
  expect(sentMessages(4, 16 * piece, Infinity)).toBe(3 + 24)
  expect(sentMessages(4, 16 * piece, piece)).toBe(3 + 96)
  expect(sentMessages(4, 4000, Infinity)).toBe(3 + 1.5)
  expect(sliceSeconds(network, 4, 16 * piece, Infinity)).toBeCloseTo(3 * (2 + header / 10) + 24 * (2 + piece / 10), 9)
})

test('what is left after backward is the rest, or what the network has not finished', () => {
  const seconds = (bytes: number) => sliceSeconds(network, 2, bytes, 100)
  const ready = [
    { seconds: 1000, bytes: 90 },
    { seconds: 2000, bytes: 60 },
    { seconds: 3000, bytes: 20 },
  ]
  expect(exposedSeconds(network, 2, ready, 3000, 100)).toBeCloseTo(seconds(70), 9)
  // The bucket that is complete 10 s before the end takes longer than that.
  const late = [ready[0], { seconds: 2990, bytes: 60 }, ready[2]]
  expect(exposedSeconds(network, 2, late, 3000, 100)).toBeCloseTo(seconds(100) + seconds(70) - 10, 9)
  expect(exposedSeconds(network, 2, [{ seconds: 0, bytes: 100 }], 3000, 100)).toBe(0)
})

test('the adapters are those of the package', () => {
  const [lora, equalSize, equalRank] = adapters
  for (const { gradientBytes, parameters, readyBytes } of adapters) {
    expect(gradientBytes).toBe(4 * parameters)
    expect(readyBytes).toHaveLength(BLOCKS)
    expect(readyBytes.reduce((sum, bytes) => sum + bytes)).toBe(gradientBytes)
  }
  // LoRA is complete block by block; of Lily routers are, A every fourth block, and B after the first block.
  const [inputs, outputs] = [6 * 4096 + 14336, 3 * 4096 + 2 * 1024 + 2 * 14336]
  expect(lora.readyBytes).toEqual(new Array(BLOCKS).fill(4 * 16 * (inputs + outputs)))
  const [routers, a, b] = [4 * 7 * 4 * 16, 4 * 16 * inputs, 4 * 4 * 16 * outputs]
  const expected = Array.from({ length: BLOCKS }, (_, block) => routers + (block % 4 === 0 ? a : 0))
  expect(equalRank.readyBytes).toEqual([expected[0] + b, ...expected.slice(1)])
  expect(Math.abs(equalSize.parameters / lora.parameters - 1)).toBeLessThan(0.01)
  expect([lora, equalSize, equalRank].map(({ title }) => title)).toEqual([
    'LoRA, r 16',
    'Lily of equal size, r 86',
    'Lily of equal rank, r 16',
  ])
})

test('the command prints the tables', () => {
  const run = (...options: string[]) =>
    spawnSync(process.execPath, ['--import', 'tsx', 'bench/distributed/model.ts', ...options], {
      cwd: packageRoot,
      encoding: 'utf8',
      env: { ...process.env, NODE_OPTIONS: '' },
    })
  const { stdout, stderr } = run('--alpha', '2e-6')
  for (const { title, lines } of tablesOf({ ...DEFAULTS, alpha: 2e-6 })) {
    expect(stdout, stderr).toContain(`${title}:\n\n${lines.join('\n')}\n`)
  }
  expect(run('--beta', '0').stderr).toContain('--beta: expected a positive number; got 0')
})
