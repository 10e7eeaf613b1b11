/** Names that a caller may have meant. */

/** The time of a comparison is the product of the lengths. */
const MAX_COMPARED = 64

/** snake_case and camelCase of a name are equal. */
const plain = (name: string): string => name.slice(0, MAX_COMPARED).replaceAll('_', '').toLowerCase()

/** Levenshtein's distance of two names, whatever their case and underscores. */
export function nameDistance(first: string, second: string): number {
  const [a, b] = [plain(first), plain(second)]
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]
}

/** The known name that a misspelt one probably stands for: at most a third of its characters differ. */
export function nearestName(name: string, known: Iterable<string>): string | null {
  let [nearest, least]: [string | null, number] = [null, Math.floor(plain(name).length / 3)]
  for (const each of known) {
    const distance = nameDistance(name, each)
    if (distance < least || (distance === least && nearest === null)) [nearest, least] = [each, distance]
  }
  return nearest
}
