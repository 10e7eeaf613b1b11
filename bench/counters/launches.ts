/**
 * Launches on a GPU beside the predictions of the long model (bench/counters/model, not the cost function by which the backend
 * chooses), and the constants with which that model fits the measured times best.
 *
 *     tsx bench/counters/launches.ts profile FOLDER JOB...   run each job under Nsight Compute (ncu), into a file of its own
 *     tsx bench/counters/launches.ts report FOLDER GPU       print a row for each launch, and fit the constants of the GPU
 *
 * A job is one of counted-call.ts as JSON. A job whose file is in FOLDER is not profiled again, so a folder is of one build and
 * one GPU. The report reads what `profile` has written so far, and FOLDER/bench.json, the times of whole calls; it writes
 * FOLDER/launches.json, first without the fit, which takes longest.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Report } from '../harness/report.js'
import type { Direction } from '../roofs/work.js'
import { shapeText } from '../workload/shapes.js'
import type { Job } from './counted-call.js'
import { type Constants, fit, type Fit } from './fit.js'
import { type Gpu, gpuOf } from './gpus.js'
import { constantsOf, planCalls, type PlannedCall, type PlannedLaunch } from './plan.js'

/** Each job runs as often in its process; medians count. */
export const REPEATS = 3

const METRICS = {
  seconds: 'gpu__time_duration.sum',
  bytesRead: 'dram__bytes_read.sum',
  bytesWritten: 'dram__bytes_write.sum',
  l2HitPercent: 'lts__t_sector_hit_rate.pct',
  clockHz: 'gpc__cycles_elapsed.avg.per_second',
} as const

type Metric = keyof typeof METRICS

export interface Profiled extends Readonly<Partial<Record<Metric, number>>> {
  readonly kernel: string
  readonly blocks: number
  readonly threads: number
}

interface Row {
  readonly job: Job
  readonly direction: Direction
  readonly planned: PlannedLaunch
  readonly predictedSeconds: number
  readonly measured: Profiled
}

interface MeasuredCall {
  readonly calls: readonly Direction[]
  readonly job: Job
  readonly seconds: number
}

const nameOf = ({ shape, dtype, method }: Job): string => `ncu-${Object.values(shape).join('-')}-${dtype}-${method}.csv`
const textOf = ({ shape, dtype, method }: Job): string => `${shapeText(shape)} ${dtype} ${method}`

// ---- Nsight Compute ----

/** The fields of a line of comma-separated values. */
const fieldsOf = (line: string): string[] =>
  [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => quoted ?? plain)

const product = (sizes: string): number => (sizes.match(/\d+/g) ?? []).reduce((all, size) => all * Number(size), 1)

/** The launches in `--csv` output of ncu in base units, a line for each metric of each launch. */
export function parseNcu(text: string): Profiled[] {
  const lines = text.split(/\r?\n/)
  const header = lines.findIndex((line) => line.startsWith('"ID"'))
  if (header < 0) throw new Error(`ncu has profiled nothing: ${text.trim().split('\n').at(-1) ?? ''}`)
  const titles = fieldsOf(lines[header])
  const launches = new Map<string, Profiled>()
  for (const line of lines.slice(header + 1).filter((each) => each.startsWith('"'))) {
    const fields = fieldsOf(line)
    const of = (title: string) => fields[titles.indexOf(title)] ?? ''
    const metric = (Object.keys(METRICS) as Metric[]).find((name) => METRICS[name] === of('Metric Name'))
    // Numbers have separators of thousands. Durations are in nanoseconds.
    const value = Number(of('Metric Value').replaceAll(',', ''))
    const known = launches.get(of('ID')) ?? {
      kernel: of('Kernel Name'),
      blocks: product(of('Grid Size')),
      threads: product(of('Block Size')),
    }
    const found =
      metric === undefined || Number.isNaN(value) ? {} : { [metric]: metric === 'seconds' ? value / 1e9 : value }
    launches.set(of('ID'), { ...known, ...found })
  }
  return [...launches.values()]
}

function profile(folder: string, jobs: readonly Job[]): void {
  const program = fileURLToPath(new URL('counted-call.ts', import.meta.url))
  for (const job of jobs) {
    const file = join(folder, nameOf(job))
    if (existsSync(file)) continue
    console.log(textOf(job))
    const options = ['--csv', '--print-units', 'base', '--metrics', Object.values(METRICS).join(',')]
    // Cold caches, as the model assumes; the clock that a call has.
    const state = ['--cache-control', 'all', '--clock-control', 'none', '--target-processes', 'all']
    const call = [process.execPath, '--import', 'tsx', program, 'forward+backward']
    const unfinished = `${file}.part`
    const { status, error } = spawnSync(
      'ncu',
      [...options, ...state, '--log-file', unfinished, ...call, ...Array<string>(REPEATS).fill(JSON.stringify(job))],
      { stdio: 'inherit', env: { ...process.env, LC_ALL: 'C', LILY_SELF_TEST: '0' } },
    )
    if (status !== 0) {
      const said = existsSync(unfinished) ? readFileSync(unfinished, 'utf8').trim() : ''
      throw new Error(`ncu exited with ${String(status ?? error?.message)}: ${said.split('\n').slice(-5).join('\n')}`)
    }
    renameSync(unfinished, file)
  }
}

// ---- Report ----

const directions = ['forward', 'backward'] as const satisfies readonly Direction[]

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]

/** Medians of the repeats of a launch. */
function summary(repeats: readonly Profiled[]): Profiled {
  const metrics = (Object.keys(METRICS) as Metric[]).flatMap((metric) => {
    const found = repeats.flatMap((each) => each[metric] ?? [])
    return found.length === 0 ? [] : [[metric, median(found)] as const]
  })
  return { ...repeats[0], ...Object.fromEntries(metrics) }
}

const isOf = (profiled: Profiled, { kernel, blocks, threads }: PlannedLaunch): boolean =>
  new RegExp(`\\b${kernel}\\b`).test(profiled.kernel) && profiled.blocks === blocks && profiled.threads === threads

/** The time from one launch to the next, which whole calls have and Nsight Compute does not measure. */
const gapOf = (constants: Constants): number => constants.launchGap

export interface Launches {
  readonly gpu: string
  readonly rows: readonly Row[]
  readonly calls: readonly (MeasuredCall & { readonly predictedSeconds: number })[]
  /** Jobs whose launches differ from the plan. */
  readonly mismatches: readonly string[]
  /** Null if nothing was measured. */
  readonly fit: () => FittedConstants | null
}

type FittedConstants = Fit & { readonly before: Constants }

/**
 * @param profiles the profiled launches of each job: forward and backward, `REPEATS` times
 * @param calls times of whole calls
 */
export function reportOn(
  name: string,
  gpu: Gpu,
  profiles: readonly (readonly [Job, readonly Profiled[]])[],
  calls: readonly MeasuredCall[],
): Launches {
  const jobs = new Map(
    [...profiles.map(([job]) => job), ...calls.map(({ job }) => job)].map((job) => [textOf(job), job]),
  )
  const planned: PlannedCall[] = [...jobs.values()].flatMap((job) =>
    directions.map((direction) => ({ ...job, gpu, direction })),
  )
  const keyOf = (job: Job, direction: Direction) => `${textOf(job)} ${direction}`
  const keys = planned.map((call) => keyOf(call as Job, call.direction))
  const plansWith = (constants?: Constants) =>
    new Map(planCalls(planned, constants).map(({ launches }, i) => [keys[i], launches]))
  const before = constantsOf(gpu)
  const plans = plansWith()
  const launchesOf = (job: Job, direction: Direction) => plans.get(keyOf(job, direction)) ?? []

  const mismatches: string[] = []
  const rows = profiles.flatMap(([job, profiled]) => {
    const expected = directions.flatMap((direction) =>
      launchesOf(job, direction).map((launch) => ({ direction, launch })),
    )
    const repeats = expected.map((_, i) => profiled.filter((_, at) => at % expected.length === i))
    const wrong = expected.findIndex(({ launch }, i) => !repeats[i].every((each) => isOf(each, launch)))
    if (profiled.length !== REPEATS * expected.length || wrong >= 0) {
      const [is, not] = [profiled.at(wrong), expected.at(wrong)?.launch]
      const difference =
        profiled.length !== REPEATS * expected.length
          ? `${profiled.length} launches, ${REPEATS * expected.length} planned`
          : `${is?.kernel ?? ''} with ${is?.blocks ?? 0} blocks, planned ${not?.kernel ?? ''} with ${not?.blocks ?? 0}`
      mismatches.push(`${textOf(job)}: ${difference}`)
      return []
    }
    return expected.map(({ direction, launch }, i): Row => {
      const predictedSeconds = launch.seconds - gapOf(before)
      return { job, direction, planned: launch, predictedSeconds, measured: summary(repeats[i]) }
    })
  })

  const timed = rows.filter(({ measured }) => (measured.seconds ?? 0) > 0)
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  const predict = (constants: Constants): number[] => {
    const there = plansWith(constants)
    const secondsOf = (job: Job, direction: Direction) =>
      (there.get(keyOf(job, direction)) ?? []).map((launch) => launch.seconds)
    return [
      ...timed.map(({ job, direction, planned: launch }) => {
        const index = launchesOf(job, direction).indexOf(launch)
        return secondsOf(job, direction)[index] - gapOf(constants)
      }),
      ...calls.map(({ job, calls: of }) => sum(of.flatMap((each) => secondsOf(job, each)))),
    ]
  }
  const measured = [...timed.map(({ measured: { seconds } }) => seconds ?? NaN), ...calls.map(({ seconds }) => seconds)]
  return {
    gpu: name,
    rows,
    calls: calls.map((call) => ({
      ...call,
      predictedSeconds: sum(call.calls.flatMap((each) => launchesOf(call.job, each).map(({ seconds }) => seconds))),
    })),
    mismatches,
    fit: () => (measured.length === 0 ? null : { ...fit(before, measured, predict), before }),
  }
}

const sizes = (launch: PlannedLaunch): string =>
  [launch.tile, launch.stripTile]
    .filter(([first]) => first > 0)
    .map((tile) => tile.join('x'))
    .join(' ')
const number = (value: number | undefined, digits: number): string =>
  value === undefined ? '-' : value.toFixed(digits)
const ratio = (a: number | undefined, b: number): string => (a === undefined ? '-' : (a / b).toFixed(2))

function tableOf(titles: readonly string[], texts: number, lines: readonly (readonly string[])[]): string {
  const widths = titles.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)))
  return [titles, ...lines]
    .map((line) => line.map((cell, i) => (i < texts ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  '))
    .join('\n')
}

export function textOfLaunches({ gpu, rows, calls, mismatches }: Launches): string {
  const sections = [
    `${gpu}. us: predicted, measured by Nsight Compute one launch at a time with cold caches, and measured / predicted.\n` +
      'MB: bytes of memory, predicted and measured; L2: share of hits in percent',
  ]
  if (rows.length > 0)
    sections.push(
      tableOf(
        ['', '', 'launch', 'tile', 'blocks', 'us', 'measured', '/', 'MB', 'measured', 'L2', 'GHz'],
        4,
        rows.map(({ job, direction, planned, predictedSeconds, measured }) => {
          const { bytesRead, bytesWritten, seconds, l2HitPercent, clockHz } = measured
          const bytes = bytesRead === undefined || bytesWritten === undefined ? undefined : bytesRead + bytesWritten
          return [
            textOf(job),
            direction,
            planned.kernel,
            sizes(planned),
            String(planned.blocks),
            number(1e6 * predictedSeconds, 1),
            number(seconds === undefined ? undefined : 1e6 * seconds, 1),
            ratio(seconds, predictedSeconds),
            number((planned.touched + planned.reread) / 1e6, 1),
            number(bytes === undefined ? undefined : bytes / 1e6, 1),
            number(l2HitPercent, 0),
            number(clockHz === undefined ? undefined : clockHz / 1e9, 2),
          ]
        }),
      ),
    )
  if (calls.length > 0)
    sections.push(
      tableOf(
        ['whole calls, as graphs', '', 'us', 'measured', '/'],
        2,
        calls.map(({ job, calls: of, predictedSeconds, seconds }) => [
          textOf(job),
          of.join('+'),
          number(1e6 * predictedSeconds, 1),
          number(1e6 * seconds, 1),
          ratio(seconds, predictedSeconds),
        ]),
      ),
    )
  if (mismatches.length > 0) sections.push(['not the launches of the plan:', ...mismatches].join('\n'))
  return sections.join('\n\n')
}

export function textOfFit({ before, constants, undetermined, errorBefore, errorAfter }: FittedConstants): string {
  const percent = (error: number) => `${(100 * error).toFixed(1)} %`
  const table = tableOf(
    ['', 'now', 'fitted', ''],
    1,
    Object.keys(before).map((name) => [
      name,
      before[name].toPrecision(4),
      constants[name].toPrecision(4),
      undetermined.includes(name) ? 'undetermined' : '',
    ]),
  )
  return `constants, fitted; the error of a time goes from ${percent(errorBefore)} to ${percent(errorAfter)} (root mean square)\n\n${table}`
}

/** Replays of graphs, in which the host takes no time: the times of `lily-kernels bench`. */
function callsOf(report: Report): MeasuredCall[] {
  return report.results
    .filter(({ method, routing }) => method.endsWith('-graph') && routing === 'batch')
    .map(({ shape, dtype, method, pass, median: seconds }) => ({
      job: { shape, dtype, method: method === 'lora-graph' ? 'lora' : 'batch' },
      calls: pass === 'forward' ? ['forward'] : directions,
      seconds,
    }))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [command, folder, ...rest] = process.argv.slice(2)
  if (command === 'profile') {
    profile(
      folder,
      rest.map((text) => JSON.parse(text) as Job),
    )
  } else {
    const [name] = rest
    const gpu = gpuOf(name)
    if (gpu === undefined) throw new Error(`the data sheet of ${name} is not in bench/counters/gpus.ts`)
    const profiles = readdirSync(folder)
      .filter((file) => /^ncu-.*\.csv$/.test(file))
      .map((file): [Job, Profiled[]] => {
        const [tokens, d, rank, experts, dtype, method] = file.slice(4, -4).split('-')
        const shape = { tokens: Number(tokens), d: Number(d), rank: Number(rank), experts: Number(experts) }
        return [{ shape, dtype, method } as Job, parseNcu(readFileSync(join(folder, file), 'utf8'))]
      })
    const bench = join(folder, 'bench.json')
    const [report] = existsSync(bench) ? (JSON.parse(readFileSync(bench, 'utf8')) as Report[]) : []
    const launches = reportOn(name, gpu, profiles, report === undefined ? [] : callsOf(report))
    const write = (written: object) => {
      writeFileSync(join(folder, 'launches.json'), `${JSON.stringify(written, null, 2)}\n`)
    }
    write(launches)
    console.log(textOfLaunches(launches))
    const found = launches.fit()
    write({ ...launches, fit: found })
    if (found !== null) console.log(`\n${textOfFit(found)}`)
  }
}
