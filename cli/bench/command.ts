/** `lily-kernels bench`: the command line of the benchmark. */
import { Command, InvalidArgumentError, Option } from 'commander'
import { cacheStates } from '../../bench/harness/cold-caches.js'
import { backendNames, routings } from '../../bench/workload/cases.js'
import { dtypeNames } from '../../bench/workload/dtypes.js'
import { parseShape, type Shape } from '../../bench/workload/shapes.js'
import { jsonTarget } from '../../report/output-file.js'
import type { BenchOptions } from './options.js'

/** Parses an option that takes names, repeated or separated by commas; `all` stands for every name. */
const oneOf =
  <T extends string>(names: readonly T[]) =>
  (text: string, previous: readonly T[]): readonly T[] => {
    const selected = text === 'all' ? names : text.split(',')
    const unknown = selected.find((name) => !(names as readonly string[]).includes(name))
    if (unknown !== undefined) {
      throw new InvalidArgumentError(`expected one of ${names.join(', ')}, all; got ${unknown}.`)
    }
    return [...previous, ...(selected as readonly T[])]
  }

function shape(text: string, previous: readonly Shape[]): readonly Shape[] {
  try {
    return [...previous, parseShape(text)]
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

const integerUpTo =
  (max: number) =>
  (text: string): number => {
    const value = Number(text)
    if (Number.isInteger(value) && value >= 1 && value <= max) return value
    throw new InvalidArgumentError(`expected an integer from 1 to ${max}.`)
  }

function seconds(text: string): number {
  const value = Number(text)
  if (value > 0 && value <= 86_400) return value
  throw new InvalidArgumentError('expected a positive number of seconds, up to 86400.')
}

/** An option that collects values. Its default is described by words instead of an empty list. */
const listOption = <T>(
  flags: string,
  description: string,
  parse: (text: string, previous: readonly T[]) => readonly T[],
  defaultText = 'a set of cases',
): Option => new Option(flags, description).argParser(parse).default([], defaultText)

/** @param version version of the package */
export function benchCommand(version: string): Command {
  return new Command('bench')
    .description('benchmark Lily against LoRA and against the arithmetic and memory limits of this machine')
    .addOption(
      listOption('--shape <M,d,r,E>', 'shape of the layer: tokens, d_in = d_out, rank, experts; repeatable', shape),
    )
    .addOption(listOption('--dtype <names>', `data types: ${dtypeNames.join(', ')} or all`, oneOf(dtypeNames)))
    .addOption(listOption('--routing <names>', `routings: ${routings.join(', ')} or all`, oneOf(routings)))
    .addOption(
      listOption(
        '--backend <names>',
        `backends: ${backendNames.join(', ')} or all`,
        oneOf(backendNames),
        'cpu, and cuda where it is available',
      ),
    )
    .option('--threads <count>', 'number of threads of the cpu backend', integerUpTo(256))
    .addOption(
      new Option(
        '--caches <state>',
        'state of the caches; cold rotates operands (default: cold on cuda, otherwise warm)',
      ).choices(cacheStates),
    )
    .option(
      '--layers <count>',
      'number of layers of the model in which LoRA gets as many trainable parameters as Lily',
      integerUpTo(10_000),
      32,
    )
    .option('--stride-a <count>', 'number of neighbouring layers that share an A in that model', integerUpTo(10_000), 4)
    .option('--layer', 'also measure the frozen linear layer: alone, and with each adapter in one call (cpu backend)')
    .addOption(
      new Option(
        '--seconds <time>',
        'time budget per backend, in seconds; at least a few rounds always run (default: 90, with --quick 15)',
      )
        .env('LILY_BENCH_SECONDS')
        .argParser(seconds),
    )
    .option('--quick', 'measure fewer cases, in less time')
    .option('--json [file]', 'write all results as JSON to a file, or to stdout (-) instead of the table', jsonTarget)
    .option('--html <file>', 'write a report with charts to a file')
    .addHelpText(
      'after',
      '\nWith --shape, --dtype or --routing, every combination of the given values is measured; options not given are then\n' +
        'all default shapes, float32 (bfloat16 on cuda) and batch routing. Without them, a default set of cases is measured.\n\n' +
        'A case that fails is reported, and the others are measured. After SIGHUP, SIGINT or SIGTERM the results so far\n' +
        'are written. The exit code is 1 if a case failed or an output could not be written, 129 after SIGHUP, 130 after\n' +
        'SIGINT, 143 after SIGTERM.',
    )
    .action(async (options: BenchOptions, command: Command) => {
      // The addon reads the variable at its first call, and WebAssembly when the package is imported.
      if (options.threads !== undefined) process.env.LILY_NUM_THREADS = String(options.threads)
      // Load the addon only here, so that --help and usage errors do not require it.
      const { run } = await import('./run.js')
      await run(options, command, version)
    })
}
