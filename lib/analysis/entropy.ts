/** -sum p ln p, where 0 ln 0 is 0. */
export function entropy(shares: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < shares.length; i++) if (shares[i] > 0) sum -= shares[i] * Math.log(shares[i])
  return sum
}
