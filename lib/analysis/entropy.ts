/** Shannon entropy in nats, -sum p ln p with 0 ln 0 = 0. Terms that are not positive are skipped. */
export function entropy(probabilities: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < probabilities.length; i++)
    if (probabilities[i] > 0) sum -= probabilities[i] * Math.log(probabilities[i])
  return sum
}
