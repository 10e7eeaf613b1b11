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
