/**
 * The process of one instruction set, which LILY_CPU_ISA selects: forward + backward with dropout and without it, in turn. It
 * writes a line of JSON for each data type and adapter.
 */
import { dropoutState } from '../../lib/index.js'
import { hostClock, medianRatio, sampleInterleaved, type Timing, timingOf } from '../harness/sampling.js'
import { type Dropout, fusedLily, fusedLora } from '../methods/fused.js'
import { type DTypeName, dtypes } from '../workload/dtypes.js'
import { makeActivations, makeLilyParameters, makeLoraParameters } from '../workload/operands.js'
import type { Shape } from '../workload/shapes.js'

export interface Request {
  readonly shape: Shape
  readonly rate: number
  readonly dtypes: readonly DTypeName[]
  /** Time budget of the whole process; at least `rounds` rounds always run. */
  readonly seconds: number
  readonly rounds: number
}

export interface DropoutResult {
  readonly dtype: DTypeName
  readonly adapter: 'lily' | 'lora'
  readonly without: Timing
  readonly with: Timing
  /** Median of the ratios of the two samples of each round. */
  readonly ratio: number
}

const request = JSON.parse(process.argv[2]) as Request
const { shape, rate, rounds } = request
const limits = {
  seconds: request.seconds / (2 * request.dtypes.length),
  rounds,
  sampleSeconds: 0.01,
  signal: new AbortController().signal,
}
const onHost = <T>(tensor: T): T => tensor

for (const dtype of request.dtypes) {
  const types = dtypes[dtype]
  const operands = makeActivations(shape, types, onHost)
  const lily = makeLilyParameters(shape, types.parameters, onHost)
  const lora = makeLoraParameters(shape.d, shape.rank, types.parameters, onHost)
  const binds = {
    lily: (dropout: Dropout) => fusedLily({ shape, dtype, routing: 'batch' }, lily, dropout)(operands),
    lora: (dropout: Dropout) => fusedLora(lora, dropout)(operands),
  }
  for (const [adapter, bind] of Object.entries(binds) as [keyof typeof binds, (typeof binds)['lily']][]) {
    const calls = [bind({}), bind({ dropout: { rate, state: dropoutState(1) } })]
    const samplers = calls.map((call) => (count: number) => hostClock(call['forward+backward'], count))
    const [plain, dropped] = await sampleInterleaved(samplers, limits)
    const ratio = medianRatio(dropped, plain)
    const result: DropoutResult = { dtype, adapter, without: timingOf(plain), with: timingOf(dropped), ratio }
    console.log(JSON.stringify(result))
  }
}
