/** ONNX Runtime for Node as a peer: a process that peer-process.ts starts with the argument `--threads N`. */
import { parseArgs } from 'node:util'
import { dtypes } from '../workload/dtypes.js'
import { filled, makeLilyParameters, makeLoraParameters, makeWeight, zeros } from '../workload/operands.js'
import { type AdapterParameters, layerModel, lilyModel, loraModel } from './onnx-model.js'
import { createSession, ortVersion, type OrtTensor, requireOrt } from './ort.js'
import { adapters, type Hello, layers } from './protocol.js'
import { type Opened, serve } from './serve.js'

const ort = requireOrt()
const { values: options } = parseArgs({ options: { threads: { type: 'string', default: '1' } } })

const methods = [...adapters, ...layers]
const hello: Hello = {
  versions: { 'ONNX Runtime': ortVersion(ort) },
  methods: methods.map((name) => ({ name, adapter: name, passes: ['forward'], dtypes: ['float32'] })),
  missing: [],
}

/** The model of a method. */
function modelOf(method: string, shape: AdapterParameters['shape']): Uint8Array {
  const [tokens, d, rank, experts] = shape
  const sizes = { tokens, d, rank, experts }
  const place = <T>(tensor: T): T => tensor
  const weight = method.endsWith('layer') ? makeWeight({ d }, dtypes.float32, place) : null
  if (method === 'layer') return layerModel(shape, weight?.data as Float32Array)
  const isLily = method.startsWith('lily')
  const { a, router } = makeLilyParameters(sizes, 'float32', place)
  const { b } = isLily ? makeLilyParameters(sizes, 'float32', place) : makeLoraParameters(d, rank, 'float32', place)
  const parameters: AdapterParameters = {
    shape,
    a: a.data as Float32Array,
    router: router.data as Float32Array,
    b: b.data as Float32Array,
    weight: weight === null ? null : (weight.data as Float32Array),
  }
  return isLily ? lilyModel(parameters) : loraModel(parameters)
}

async function open(method: string, shape: AdapterParameters['shape']): Promise<Opened> {
  const [tokens, d] = shape
  const session = await createSession(ort, modelOf(method, shape), Number(options.threads))
  const tensorOf = (data: unknown): OrtTensor => new ort.Tensor('float32', data as Float32Array, [tokens, d])
  const x = tensorOf(filled([tokens, d], 1).data)
  const feeds = { x, ...(method.endsWith('layer') ? {} : { y: tensorOf(zeros([tokens, d]).data) }) }
  // The result is written to memory that exists already, as in this package.
  const z = tensorOf(zeros([tokens, d]).data)
  const run = () => session.run(feeds, { z })
  return {
    run,
    outputs: async () => {
      await run()
      return { y: z.data }
    },
    close: () => session.release(),
  }
}

await serve(hello, open)
