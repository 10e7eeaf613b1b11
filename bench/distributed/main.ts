/** `npm run bench:distributed`: averageGradients of lily-kernels/mpi beside MPI_Allreduce in C, on two ranks of this machine. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parsePositive, readOptions } from '../harness/options.js'
import { PeerProcess } from '../peers/peer-process.js'
import { checkFolder, cpuBackend, interruptSignal, measurement, writeReport } from '../peers/program.js'
import type { Missing } from '../peers/protocol.js'
import { jobOfC, jobOfOurs, libraries, missingCommands, RANKS } from './launch.js'
import { measureBytes } from './measure.js'
import type { Reply, Request } from './protocol.js'
import { distributedMarkdown, type DistributedReport, type DistributedRow } from './report.js'

const usage = `npm run bench:distributed -- [options]
  --seconds TIME    time budget of the measurements (default: 180, with --quick 1)
  --quick           smaller gradients and fewer rounds
  --json FILE       write all results as JSON
  --help            show this help`

const options = readOptions(usage, {
  seconds: { type: 'string' },
  quick: { type: 'boolean', default: false },
  json: { type: 'string' },
})

const budget = parsePositive('seconds', options.seconds ?? (options.quick ? '1' : '180'))
checkFolder(options.json)
const cpu = cpuBackend()

const sizes = (options.quick ? [0.25, 1] : [1, 16, 64]).map((mebibytes) => mebibytes * 2 ** 20)
const signal = interruptSignal()
const measuredAt = new Date().toISOString()
const limits = {
  seconds: budget / libraries.length / sizes.length,
  rounds: options.quick ? 3 : 15,
  sampleSeconds: options.quick ? 0.002 : 0.05,
  signal,
}
const missing: Missing[] = []
const versions: Record<string, string> = { Node: process.version }
const rows: DistributedRow[] = []
const folder = mkdtempSync(join(tmpdir(), 'lily-bench-'))
try {
  for (const library of libraries) {
    const { name, install } = library
    const commands = missingCommands(library)
    if (commands.length > 0) {
      missing.push({ name, reason: `there is no ${commands.join(' and no ')}`, install })
      continue
    }
    console.error(`measuring ${name}`)
    const { peer: c } = await PeerProcess.start<Request, Reply>(jobOfC(library, folder))
    try {
      const { peer: ours, hello } = await PeerProcess.start<Request, Reply>(jobOfOurs(library))
      try {
        const opened = hello.versions.MPI
        for (const bytes of sizes) rows.push(await measureBytes({ c, ours }, opened, bytes, limits))
      } finally {
        ours.stop()
      }
    } finally {
      c.stop()
    }
  }
} catch (error) {
  if (!signal.aborted) throw error
} finally {
  rmSync(folder, { recursive: true })
}

const report: DistributedReport = {
  ...measurement('bench:distributed', measuredAt, signal, { ...cpu, threads: 1 }),
  versions,
  ranks: RANKS,
  missing,
  rows,
}
writeReport(report, distributedMarkdown(report), options.json)
