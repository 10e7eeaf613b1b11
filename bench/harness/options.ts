/** Parsing of the options of the benchmark programs. */

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
