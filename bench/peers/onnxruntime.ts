/** ONNX Runtime for Node as a peer: a process that peer-process.ts starts with the argument `--threads N`. */
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { filled, makeLilyParameters, makeLoraParameters, zeros } from '../workload/operands.js'
import { type AdapterParameters, lilyModel, loraModel } from './onnx-model.js'
import { evenlySpaced, type Hello, type Reply, type Request } from './protocol.js'

interface OrtTensor {
  readonly data: Float32Array
}
interface Session {
  run(feeds: Record<string, OrtTensor>, fetches: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>
  release(): Promise<void>
}
/** The part of onnxruntime-node that is used here. */
interface Ort {
  readonly Tensor: new (dtype: 'float32', data: Float32Array, shape: readonly number[]) => OrtTensor
  readonly InferenceSession: {
    create(model: Uint8Array, options: Readonly<Record<string, unknown>>): Promise<Session>
  }
  readonly env: { readonly versions: Readonly<Record<string, string | undefined>> }
}

// Not an import: the package is optional, and its types are, too.
const ort = createRequire(import.meta.url)('onnxruntime-node') as Ort
const { values: options } = parseArgs({ options: { threads: { type: 'string', default: '1' } } })

const methods = ['lily', 'lora'] as const
const hello: Hello = {
  versions: { 'ONNX Runtime': ort.env.versions.node ?? ort.env.versions.common ?? 'unknown' },
  methods: methods.map((name) => ({ name, adapter: name, passes: ['forward'], dtypes: ['float32'] })),
  missing: [],
}

interface Opened {
  readonly session: Session
  readonly run: () => Promise<unknown>
  readonly z: OrtTensor
}
const opened = new Map<string, Opened>()

async function open(method: string, shape: readonly number[]): Promise<void> {
  const [tokens, d, rank, experts] = shape as AdapterParameters['shape']
  const sizes = { tokens, d, rank, experts }
  const place = <T>(tensor: T): T => tensor
  const { a, router } = makeLilyParameters(sizes, 'float32', place)
  const { b } =
    method === 'lily' ? makeLilyParameters(sizes, 'float32', place) : makeLoraParameters(d, rank, 'float32', place)
  const parameters: AdapterParameters = {
    shape: [tokens, d, rank, experts],
    a: a.data as Float32Array,
    router: router.data as Float32Array,
    b: b.data as Float32Array,
  }
  const session = await ort.InferenceSession.create(method === 'lily' ? lilyModel(parameters) : loraModel(parameters), {
    intraOpNumThreads: Number(options.threads),
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  })
  const tensorOf = (data: unknown): OrtTensor => new ort.Tensor('float32', data as Float32Array, [tokens, d])
  const x = tensorOf(filled([tokens, d], 1).data)
  const y = tensorOf(zeros([tokens, d]).data)
  // The result is written to memory that exists already, as in this package.
  const z = tensorOf(zeros([tokens, d]).data)
  opened.set(method, { session, run: () => session.run({ x, y }, { z }), z })
}

function openedAs(method: string): Opened {
  const found = opened.get(method)
  if (found === undefined) throw new Error(`${method} is not open`)
  return found
}

async function answer(request: Request): Promise<Reply> {
  switch (request.request) {
    case 'open':
      await open(request.method, request.shape)
      return {}
    case 'outputs': {
      const { run, z } = openedAs(request.method)
      await run()
      return { outputs: { y: evenlySpaced(z.data) } }
    }
    case 'sample': {
      const { run } = openedAs(request.method)
      const end = performance.now() + request.warmup * 1000
      do await run()
      while (performance.now() < end)
      const begin = process.hrtime.bigint()
      for (let call = 0; call < request.calls; call++) await run()
      return { seconds: Number(process.hrtime.bigint() - begin) / 1e9 / request.calls }
    }
    case 'close':
      for (const { session } of opened.values()) await session.release()
      opened.clear()
      return {}
  }
}

const send = (message: Hello | Reply): boolean => process.stdout.write(`${JSON.stringify(message)}\n`)

send(hello)
for await (const line of createInterface({ input: process.stdin })) {
  try {
    send(await answer(JSON.parse(line) as Request))
  } catch (error) {
    // The other methods go on.
    send({ error: (error as Error).message })
  }
}
