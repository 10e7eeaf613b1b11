// Prints a hash of every output of a list of problems, on each instruction set of this processor, as JSON. Two trees
// that compute the same bits print the same text: run it before a change that must not alter results, and after it.
//
//   npx tsx scripts/output-hashes.ts                                 the CPU backend of this checkout (build it first)
//   npx tsx scripts/output-hashes.ts --package DIR                   that of another checkout
//   npm run -s emulated -- npx tsx scripts/output-hashes.ts --cuda   the CUDA backend, on the emulator
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type { Native } from '../lib/binding/native.js'
import type { Precision, Routing, Tensor } from '../lib/index.js'

type Lily = typeof import('../lib/index.js')
type Float = 'float32' | 'bfloat16' | 'float16'

/** Of each output of each problem. */
type Hashes = Record<string, Record<string, string>>

interface Types {
  readonly activations: Float
  readonly parameters: Float
  readonly precision: Precision
}

interface Problem {
  readonly routing: Routing | 'lora'
  readonly tokens: number
  readonly dIn: number
  readonly dOut: number
  readonly rank: number
  readonly experts: number
  readonly pool?: 'logits'
  readonly relu?: true
  readonly masked?: true
  /** Of the sequences. */
  readonly lengths?: readonly number[]
  readonly deferB?: true
  /** Results are new tensors; otherwise y, dx and da are accumulated into given ones. */
  readonly fresh?: true
}

const root = fileURLToPath(new URL('..', import.meta.url))
const { values: options } = parseArgs({
  options: {
    package: { type: 'string', default: root },
    cuda: { type: 'boolean', default: false },
    child: { type: 'boolean', default: false },
  },
})

const small = { tokens: 150, dIn: 33, dOut: 136, experts: 3 }
const ragged = { ...small, rank: 9, lengths: [41, 0, 17, 92] }
const wide = { ...small, tokens: 260, dIn: 136, dOut: 530 }

/**
 * Ragged ends in every direction. They cover every routing and LoRA, at ranks and numbers of tokens that different passes
 * compute, but no frozen linear layer and no analysis in float64.
 */
const problems: readonly Problem[] = [
  { ...small, routing: 'batch', rank: 7, masked: true, relu: true },
  { ...small, routing: 'batch', rank: 16, fresh: true },
  { ...wide, routing: 'batch', rank: 4, pool: 'logits', masked: true, deferB: true },
  { ...wide, routing: 'batch', rank: 33, masked: true },
  { ...wide, routing: 'batch', rank: 100, masked: true, relu: true },
  { ...small, routing: 'batch', rank: 140, tokens: 60, masked: true },
  { ...small, routing: 'batch', rank: 132, tokens: 600, masked: true, relu: true },
  { ...small, routing: 'batch', rank: 20, tokens: 9, dIn: 530, masked: true, relu: true },
  { ...small, routing: 'batch', rank: 16, tokens: 1, dIn: 520 },
  { ...ragged, routing: 'sequence', masked: true, deferB: true },
  { ...ragged, routing: 'sequence', pool: 'logits', masked: true },
  { ...ragged, routing: 'sequence', rank: 132, masked: true },
  { ...ragged, routing: 'sequence', tokens: 40, lengths: [3, 0, 37], dIn: 530, masked: true },
  { ...ragged, routing: 'fixed' },
  { ...small, routing: 'uniform', rank: 24, deferB: true },
  { ...small, routing: 'token', rank: 8, relu: true },
  { ...wide, routing: 'token', rank: 72 },
  { ...small, routing: 'token', tokens: 4040, dIn: 9, dOut: 70, rank: 5, deferB: true },
  { ...small, routing: 'token', tokens: 3, rank: 12, fresh: true },
  { ...small, routing: 'lora', experts: 1, rank: 20 },
  { ...wide, routing: 'lora', experts: 1, rank: 4, fresh: true },
  { ...wide, routing: 'lora', experts: 1, rank: 128 },
  { ...small, routing: 'lora', experts: 1, rank: 16, tokens: 1 },
  ...[1, 2, 3, 4, 5, 6, 7, 8, 9].flatMap(ofFewTokens),
]

/** Forward packs no operand up to 8 tokens. */
function ofFewTokens(tokens: number): Problem[] {
  const few = { ...wide, tokens, dIn: 147 }
  return [
    { ...few, routing: 'batch', rank: 16 },
    { ...few, routing: 'sequence', rank: 7, lengths: [1, 0, tokens - 1], masked: true, relu: true },
    { ...few, routing: 'token', rank: 9, fresh: true },
    { ...few, routing: 'uniform', rank: 19 },
    { ...few, routing: 'fixed', rank: 133 },
    { ...few, routing: 'lora', experts: 1, rank: 16 },
    { ...few, routing: 'lora', experts: 1, rank: 41, fresh: true },
  ]
}

const types: readonly Types[] = [
  { activations: 'float32', parameters: 'float32', precision: 'default' },
  { activations: 'float32', parameters: 'float32', precision: 'tf32' },
  { activations: 'bfloat16', parameters: 'bfloat16', precision: 'default' },
  { activations: 'float16', parameters: 'float16', precision: 'default' },
  { activations: 'bfloat16', parameters: 'float32', precision: 'default' },
  { activations: 'bfloat16', parameters: 'float32', precision: 'high' },
]

if (options.child) {
  process.stdout.write(JSON.stringify(await hashAll()))
} else {
  const names = options.cuda ? ['cuda'] : instructionSets()
  const all: Record<string, Hashes> = {}
  for (const name of names) all[name] = hashesOf(name)
  console.log(JSON.stringify(all, null, 1))
}

function instructionSets(): string[] {
  const folder = resolve(options.package)
  const load = createRequire(join(folder, 'package.json'))('node-gyp-build') as (folder: string) => Native
  return load(folder).processor().instructionSets.split(' ')
}

/** Runs in a separate process, because the addon reads its environment once. */
function hashesOf(name: string): Hashes {
  const child = [
    fileURLToPath(import.meta.url),
    '--child',
    '--package',
    options.package,
    ...(options.cuda ? ['--cuda'] : []),
  ]
  const { stdout, status } = spawnSync(process.execPath, ['--import', 'tsx', ...child], {
    env: options.cuda ? process.env : { ...process.env, LILY_CPU_ISA: name },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 30,
  })
  if (status !== 0) throw new Error(`${name}: the child ended with ${status}`)
  return JSON.parse(stdout) as Hashes
}

async function hashAll(): Promise<Hashes> {
  const module = String(pathToFileURL(join(resolve(options.package), 'dist', 'index.js')))
  const lily = (await import(module)) as Lily
  const all: Hashes = {}
  for (const type of types) {
    for (const problem of problems)
      all[JSON.stringify({ ...type, ...problem })] = await hashProblem(lily, problem, type)
  }
  all.adamw = await hashAdamW(lily)
  return all
}

async function hashProblem(
  lily: Lily,
  problem: Problem,
  { activations, parameters, precision }: Types,
): Promise<Record<string, string>> {
  const { routing, tokens, dIn, dOut, rank, experts, relu, masked, pool, lengths, deferB, fresh } = problem
  let seed = 1
  const random = (dtype: Float, ...shape: number[]) => place(randomTensor(lily, seed++, dtype, shape))
  const x = random(activations, tokens, dIn)
  const a = random(parameters, rank, dIn)
  const b = routing === 'lora' ? random(parameters, dOut, rank) : random(parameters, experts, rank, dOut)
  const dy = random(activations, tokens, dOut)
  const y = fresh ? undefined : random(activations, tokens, dOut)
  const given = fresh ? {} : { dx: random(activations, tokens, dIn), da: random(parameters, rank, dIn) }
  let outputs: Record<string, Tensor | undefined>
  if (routing === 'lora') {
    const forward = lily.loraForward({ x, a, b, y }, { scaling: 2, precision })
    const { hidden } = forward.saved
    outputs = { y: forward.y, hidden, ...lily.loraBackward({ dy, ...given }, forward.saved) }
  } else {
    const router = routing === 'uniform' || routing === 'fixed' ? undefined : random(parameters, experts, rank)
    const forward = lily.lilyForward(
      { x, a, router, b, y },
      {
        scaling: 2,
        routing,
        precision,
        activation: relu ? 'relu' : 'none',
        pool,
        mask: masked && Uint8Array.from({ length: tokens }, (_, t) => (t % 3 === 1 ? 0 : 1)),
        sequenceOffsets: lengths && [0, ...lengths.map((_, g) => lengths.slice(0, g + 1).reduce((p, q) => p + q))],
        weights:
          routing === 'fixed' ? randomTensor(lily, seed++, 'float32', [lengths?.length ?? 1, experts]) : undefined,
      },
    )
    const { hidden, probabilities, weights } = forward.saved
    const gradients = lily.lilyBackward({ dy, ...given }, forward.saved, { deferB: deferB === true })
    outputs = { y: forward.y, hidden, probabilities, weights, ...gradients }
    if (deferB) outputs.db = lily.foldB(forward.saved)
  }
  const hashes: Record<string, string> = {}
  for (const [name, tensor] of Object.entries(outputs)) if (tensor) hashes[name] = hashOf(await tensor.toHost())
  return hashes
}

async function hashAdamW(lily: Lily): Promise<Record<string, string>> {
  const parameter = (dtype: Float, seed: number) => ({
    value: place(randomTensor(lily, seed, dtype, [37, 11])),
    grad: place(randomTensor(lily, seed + 1, dtype, [37, 11])),
  })
  const parameters = new Map([
    ['a', parameter('float32', 100)],
    ['b', parameter('bfloat16', 200)],
  ])
  const optimiser = new lily.AdamW(parameters, { lr: 1e-2, maxNorm: 0.5 })
  for (let step = 0; step < 3; step++) optimiser.step()
  const hashes: Record<string, string> = {}
  for (const [name, { value }] of parameters) hashes[name] = hashOf(await value.toHost())
  return hashes
}

function place(tensor: Tensor): Tensor {
  return options.cuda ? tensor.to({ type: 'cuda', id: 0 }) : tensor
}

/** Numbers in [-1/2, 1/2): a 32-bit integer hash of a counter, cut to the type. */
function randomTensor(lily: Lily, seed: number, dtype: Float, shape: readonly number[]): Tensor {
  const elements = shape.reduce((product, size) => product * size, 1)
  const values = Float32Array.from({ length: elements }, (_, i) => {
    let z = Math.imul(seed * 0x10001 + i + 1, 0x9e3779b9)
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return ((z ^ (z >>> 16)) >> 21) / 2 ** 11
  })
  if (dtype === 'float32') return lily.tensor(values, shape)
  const bits = new Uint32Array(values.buffer)
  const half = Uint16Array.from(values, (value, i) => {
    if (dtype === 'bfloat16') return bits[i] >>> 16
    // Eleven significant bits, none of them lost, and no subnormal numbers.
    if (value === 0) return 0
    return (
      (((bits[i] >>> 16) & 0x8000) | ((((bits[i] >>> 23) & 0xff) - 112) << 10) | ((bits[i] >>> 13) & 0x3ff)) & 0xffff
    )
  })
  return lily.tensor(half, shape, dtype)
}

function hashOf({ data }: Tensor): string {
  return createHash('sha256')
    .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    .digest('hex')
    .slice(0, 16)
}
