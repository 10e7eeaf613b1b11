/** `npm run bench:dropout`: what dropout costs in forward + backward, by instruction set and data type, on the CPU. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { native } from '../../lib/binding/native.js'
import { parseNames, parsePositive, readOptions } from '../harness/options.js'
import { checkFolder, cpuBackend } from '../peers/program.js'
import { dtypeNames } from '../workload/dtypes.js'
import { parseShape, shapeText } from '../workload/shapes.js'
import type { DropoutResult, Request } from './measure.js'

const usage = `npm run bench:dropout -- [options]
  --shape M,d,r,E   tokens, d_in = d_out, rank and experts (default: 2048,4096,16,4)
  --rate RATE       rate of dropout from above 0 to below 1 (default: 0.1)
  --dtype NAME      data type; repeatable (default: float32 and bfloat16)
  --set NAME        instruction set; repeatable (default: all of this processor)
  --threads COUNT   number of threads (default: as the cpu backend)
  --seconds TIME    time budget (default: 120)
  --json FILE       write all results as JSON
  --help            show this help`

const options = readOptions(usage, {
  shape: { type: 'string', default: '2048,4096,16,4' },
  rate: { type: 'string', default: '0.1' },
  dtype: { type: 'string', multiple: true, default: ['float32', 'bfloat16'] },
  set: { type: 'string', multiple: true },
  threads: { type: 'string' },
  seconds: { type: 'string', default: '120' },
  json: { type: 'string' },
})

function parseRate(text: string): number {
  const rate = parsePositive('rate', text)
  if (!(rate < 1)) throw new Error(`--rate: expected a number below 1; got ${text}`)
  return rate
}

checkFolder(options.json)
const { device, threads } = cpuBackend(options.threads)
const supported = native.processor().instructionSets.split(' ')
const sets = parseNames('set', supported, options.set ?? supported)
const request: Request = {
  shape: parseShape(options.shape),
  rate: parseRate(options.rate),
  dtypes: parseNames('dtype', dtypeNames, options.dtype),
  seconds: parsePositive('seconds', options.seconds) / sets.length,
  rounds: 9,
}

const measuredAt = new Date().toISOString()
const program = fileURLToPath(new URL('measure.ts', import.meta.url))
const results = sets.flatMap((instructionSet) => {
  const text = execFileSync(process.execPath, [...process.execArgv, program, JSON.stringify(request)], {
    env: { ...process.env, LILY_CPU_ISA: instructionSet },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines = text.trim().split('\n')
  return lines.map((line) => ({ instructionSet, ...(JSON.parse(line) as DropoutResult) }))
})

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}
const report = {
  version,
  measuredAt,
  command: ['npm run bench:dropout', ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' '),
  machine: { device, threads, platform: `${process.platform}-${process.arch}`, node: process.version },
  shape: request.shape,
  rate: request.rate,
  results,
}
const milliseconds = (seconds: number): string => (seconds * 1000).toFixed(2)
const rows = results.map(({ instructionSet, dtype, adapter, without, with: dropped, ratio }) => {
  const times = [without.median, dropped.median].map(milliseconds)
  return [instructionSet, dtype, adapter === 'lily' ? 'Lily, batch' : 'LoRA', ...times, ratio.toFixed(3)]
})
const heads = ['instructions', 'type', 'adapter', 'without, ms', 'with, ms', 'ratio']
const rule = heads.map((_, i) => (i < 3 ? '---' : '---:'))
console.log(`## Forward + backward with dropout of rate ${request.rate}, ${shapeText(request.shape)}

${device}, ${threads} threads. Medians, both in turn; the ratio is the median over the rounds.

${[heads, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')}`)
if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`)
