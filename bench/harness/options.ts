/** Parsing of the options of the benchmark programs. */
import { parseArgs, type ParseArgsConfig } from 'node:util'

type Options = NonNullable<ParseArgsConfig['options']>

/** The options of a program. --help prints the usage, and ends the process. */
export function readOptions<T extends Options>(
  usage: string,
  options: T,
): ReturnType<typeof parseArgs<{ options: T }>>['values'] {
  const all: Options = { ...options, help: { type: 'boolean' } }
  const { values } = parseArgs({ options: all })
  if (values.help === true) {
    console.log(usage)
    process.exit()
  }
  return values as ReturnType<typeof readOptions<T>>
}

/** @throws if a name is not one of `names` */
export function parseNames<Name extends string>(
  option: string,
  names: readonly Name[],
  given: readonly string[],
): Name[] {
  return given.map((name) => {
    const found = names.find((candidate) => candidate === name)
    if (found === undefined) throw new Error(`--${option}: expected one of ${names.join(', ')}; got ${name}`)
    return found
  })
}

/** @throws if the text is no positive number */
export function parsePositive(option: string, text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new Error(`--${option}: expected a positive number; got ${text}`)
  return value
}
