/**
 * Compares the addon for Windows with WebAssembly, both under Wine and in turns:
 *
 *     npx tsx test/windows/bench.ts [--json FILE]
 *
 * Requires dist/ and prebuilds/win32-x64/. The exit code is 1 unless the addon takes at most half of the time.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Report } from '../../bench/harness/report.js'
import { packageRoot } from '../../lib/binding/root.js'
import { windowsPath, Wine } from './wine.js'

const SHAPE = '512,768,16,4'
const ROUNDS = 3
const SECONDS = '6'
/** As a user gets them; LILY_CPU_ISA of the second is what is chosen where there is no addon. */
const builds = { addon: '', 'addon with AVX2': 'avx2', WebAssembly: 'wasm-relaxed' }
type Build = keyof typeof builds

interface Measured {
  readonly build: Build
  readonly detail: string
  readonly threads: number | null
  /** Medians of a round, in milliseconds. */
  readonly forward: number
  readonly both: number
}

async function measure(wine: Wine, build: Build): Promise<Measured> {
  const json = join(wine.folder, 'bench.json')
  const args = ['bench', '--shape', SHAPE, '--dtype', 'float32', '--routing', 'batch', '--seconds', SECONDS]
  const isa = builds[build]
  const { code, stderr } = await wine.run(
    [windowsPath(join(packageRoot, 'dist', 'cli.js')), ...args, '--json', windowsPath(json)],
    isa === '' ? {} : { LILY_CPU_ISA: isa },
  )
  if (code !== 0) throw new Error(stderr)
  const [{ machine, results }] = JSON.parse(readFileSync(json, 'utf8')) as Report[]
  const { detail, threads } = machine
  const time = (pass: string) => {
    const result = results.find((each) => each.pass === pass && each.method === 'lily')
    if (result === undefined) throw new Error(`no time of ${pass}`)
    return result.median * 1000
  }
  return { build, detail, threads, forward: time('forward'), both: time('forward+backward') }
}

async function main(): Promise<void> {
  const { values: options } = parseArgs({ options: { json: { type: 'string' } } })
  const rounds: Measured[] = []
  const wine = new Wine()
  try {
    await wine.start()
    for (let round = 0; round < ROUNDS; round++) {
      for (const build of Object.keys(builds) as Build[]) rounds.push(await measure(wine, build))
    }
  } finally {
    wine.remove()
  }
  const best = (build: Build, pass: 'forward' | 'both') =>
    Math.min(...rounds.filter((each) => each.build === build).map((each) => each[pass]))
  for (const build of Object.keys(builds) as Build[]) {
    const { detail, threads } = rounds.find((each) => each.build === build)!
    const times = (['forward', 'both'] as const).map((pass) => best(build, pass).toFixed(2))
    console.log(`${build} (${detail}, ${threads} threads): forward ${times[0]} ms, forward + backward ${times[1]} ms`)
  }
  const ratio = best('WebAssembly', 'both') / best('addon', 'both')
  console.log(`forward + backward at ${SHAPE}: the addon is ${ratio.toFixed(2)} times as fast as WebAssembly`)
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify({ shape: SHAPE, rounds }, null, 2)}\n`)
  process.exitCode = ratio >= 2 ? 0 : 1
}

void main()
