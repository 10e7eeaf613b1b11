/** The command line of the microbenchmark. */
import { Command, InvalidArgumentError, Option } from 'commander'
import { routings } from '../../bench/cases.js'
import { type DTypeName, dtypeNames } from '../../bench/dtypes.js'
import { backendNames, type Caches, cacheStates } from '../../bench/report.js'
import { parseShape, type Shape } from '../../bench/shapes.js'
import type { BackendName, Routing } from '../../lib/index.js'

/** As commander gives them. */
export interface Options {
  readonly shape: readonly Shape[]
  readonly dtype: readonly DTypeName[]
  readonly routing: readonly Routing[]
  readonly backend: readonly BackendName[]
  readonly threads?: number
  readonly caches?: Caches
  readonly layers: number
  readonly strideA: number
  readonly seconds?: number
  readonly quick: boolean
  readonly json?: string | true
  readonly html?: string
}

/** A list's values, given again and again or separated by commas; `all` is all of them. */
const oneOf =
  <T extends string>(names: readonly T[]) =>
  (text: string, before: readonly T[]): readonly T[] => {
    const wanted = text === 'all' ? names : text.split(',')
    const unknown = wanted.find((name) => !(names as readonly string[]).includes(name))
    if (unknown !== undefined) throw new InvalidArgumentError(`${unknown} is none of ${names.join(', ')}, all.`)
    return [...before, ...(wanted as readonly T[])]
  }

function shape(text: string, before: readonly Shape[]): readonly Shape[] {
  try {
    return [...before, parseShape(text)]
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

const wholeNumber =
  (most: number) =>
  (text: string): number => {
    const value = Number(text)
    if (Number.isInteger(value) && value >= 1 && value <= most) return value
    throw new InvalidArgumentError(`expected a whole number from 1 to ${most}.`)
  }

function secondsOf(text: string): number {
  const value = Number(text)
  if (value > 0 && value <= 86_400) return value
  throw new InvalidArgumentError('expected seconds, above 0.')
}

/** `version` is the package's. */
export function benchCommand(version: string): Command {
  return new Command('bench')
    .description('measure Lily against LoRA and against the limits of this machine')
    .option('--shape <M,d,r,E>', 'instead of the usual shapes; may be given again', shape, [])
    .option('--dtype <names>', `${dtypeNames.join(', ')} or all`, oneOf(dtypeNames), [])
    .option('--routing <names>', `${routings.join(', ')} or all`, oneOf(routings), [])
    .option('--backend <names>', `${backendNames.join(', ')} or all; by default what is there`, oneOf(backendNames), [])
    .option('--threads <count>', 'of the cpu backend', wholeNumber(256))
    .addOption(
      new Option('--caches <state>', 'cold: rotate buffers; by default warm on the cpu, cold on a device').choices(
        cacheStates,
      ),
    )
    .option('--layers <count>', 'of the model in which LoRA has as many trainable parameters', wholeNumber(10_000), 32)
    .option('--stride-a <count>', 'neighbouring layers that share an A in that model', wholeNumber(10_000), 4)
    .option('--seconds <time>', 'to measure each backend for; at least a few rounds are', secondsOf)
    .option('--quick', 'fewer cases and less time for each', false)
    .option('--json [file]', 'everything measured, as JSON, into a file, or instead of the table')
    .option('--html <file>', 'a report with charts')
    .addHelpText('after', '\nAny of --shape, --dtype and --routing: all combinations of what is given are measured.')
    .action(async (options: Options, command: Command) => {
      // What needs the addon comes after this: help and mistakes do not.
      const { run } = await import('./run.js')
      await run(options, command, version)
    })
}
