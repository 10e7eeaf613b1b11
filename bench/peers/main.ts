/** `npm run bench:peers`: this package beside PyTorch, ONNX Runtime and TensorFlow.js, in one run on the CPU. */
import { writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseNames, parsePositive, readOptions } from '../harness/options.js'
import { passes } from '../methods/methods.js'
import { dtypeNames } from '../workload/dtypes.js'
import { parseShape, shapes, shapeText } from '../workload/shapes.js'
import { ourContender } from './contender.js'
import { measureCase, type PeerRow } from './measure.js'
import { peerNames, peers, pytorchSettings, startPeers } from './peers.js'
import { checkFolder, cpuBackend, interruptSignal, measurement } from './program.js'
import { type Adapter, adapters, layers } from './protocol.js'
import { peersMarkdown, type PeersReport } from './report.js'

const usage = `npm run bench:peers -- [options]
  --shape M,d,r,E   shape of the layer; repeatable (default: the shapes of lily-kernels bench)
  --dtype NAME      ${dtypeNames.join(', ')}; repeatable (default: float32, bfloat16)
  --peer NAME       ${peerNames.join(', ')}; repeatable (default: all)
  --threads COUNT   number of threads of every contender (default: as the cpu backend)
  --seconds TIME    time budget of the measurements, without compiling (default: 600, with --quick 10)
  --layer           measure the frozen linear layer alone and with each adapter, instead of the adapters
  --quick           measure two shapes, in fewer rounds, and write no files
  --no-compile      leave torch.compile out
  --output BASE     write BASE.json and BASE.md (default: bench/results/peers-PROCESSOR-SET-N-threads, or
                    ...-threads-layer)
  --help            show this help`

const repeatable = { type: 'string', multiple: true } as const
const options = readOptions(usage, {
  shape: repeatable,
  dtype: repeatable,
  peer: repeatable,
  threads: { type: 'string' },
  seconds: { type: 'string' },
  layer: { type: 'boolean', default: false },
  quick: { type: 'boolean', default: false },
  'no-compile': { type: 'boolean', default: false },
  output: { type: 'string' },
})

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')

const selectedShapes = options.shape?.map(parseShape) ?? shapes.slice(0, options.quick ? 2 : undefined)
const selectedTypes = parseNames('dtype', dtypeNames, options.dtype ?? ['float32', 'bfloat16'])
const selectedPeers = parseNames('peer', peerNames, options.peer ?? peerNames)
const budget = parsePositive('seconds', options.seconds ?? (options.quick ? '10' : '600'))

const cpu = cpuBackend(options.threads)
const { device, simd, threads } = cpu
const slug = device.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')
const file = `peers-${slug}-${simd}-${threads}-threads${options.layer ? '-layer' : ''}`
const base = options.output ?? (options.quick ? null : `bench/results/${file}`)
checkFolder(base === null ? null : resolve(root, base))

const signal = interruptSignal()

console.error('starting the peers')
const measuredAt = new Date().toISOString()
const selected = selectedPeers.map((name) => peers[name])
const started = await startPeers(selected, { threads, compiles: !options['no-compile'] })
const missing = [...started.missing]
for (const { name, reason, install } of missing) {
  console.error(`missing: ${name}: ${reason}${install === '' ? '' : `; to install it: ${install}`}`)
}
const rows: PeerRow[] = []
try {
  const measured: readonly Adapter[] = options.layer ? layers : adapters
  const contenders = [
    ...measured.map(ourContender),
    ...started.contenders.filter(({ adapter }) => measured.includes(adapter)),
  ]
  const cases = selectedTypes.flatMap((dtype) =>
    selectedShapes.map((shape) => ({ shape, dtype, routing: 'batch' }) as const),
  )
  for (const benchCase of cases) {
    console.error(`measuring ${shapeText(benchCase.shape)} ${benchCase.dtype}`)
    const limits = {
      seconds: budget / cases.length / passes.length,
      rounds: options.quick ? 3 : 9,
      // Long compared with a request to a peer, and with what it does before and after.
      sampleSeconds: options.quick ? 0.002 : 0.01,
      signal,
    }
    rows.push(...(await measureCase(contenders, benchCase, limits, missing)))
  }
} catch (error) {
  if (!signal.aborted) throw error
} finally {
  started.stop()
}

const report: PeersReport = {
  ...measurement('bench:peers', measuredAt, signal, cpu),
  versions: { Node: process.version, ...started.versions },
  environment: pytorchSettings(threads),
  missing,
  rows,
}
console.log(peersMarkdown(report))
if (base !== null) {
  writeFileSync(resolve(root, `${base}.json`), `${JSON.stringify(report, null, 2)}\n`)
  writeFileSync(resolve(root, `${base}.md`), peersMarkdown(report))
  console.log(`results: ${base}.json and ${base}.md`)
}
if (signal.aborted) process.exitCode = 130
