/** Formatting of numbers. */

/** Stands for a value that does not exist. */
export const NONE = '-'

export const milliseconds = (seconds: number): string => {
  const value = seconds * 1e3
  return value.toFixed(value < 0.1 ? 4 : value < 10 ? 3 : 1)
}

export const microseconds = (seconds: number): string => `${(seconds * 1e6).toFixed(1)} µs`

export const percent = (share: number | null, none = NONE): string =>
  share === null ? none : `${(share * 100).toFixed(0)}%`

export const ratio = (value: number | null | undefined, none = NONE): string =>
  value == null ? none : value.toFixed(2)

/** In units of 10^9 per second. */
export const giga = (rate: number): string => (rate / 1e9).toFixed(rate < 1e10 ? 1 : 0)

export const size = (bytes: number): string => {
  const [unit, name] = bytes < 2 ** 20 ? [2 ** 10, 'KiB'] : [2 ** 20, 'MiB']
  return `${Number((bytes / unit).toPrecision(3))} ${name}`
}

export const threeDigits = (value: number): string => value.toPrecision(3)

/** Two decimals, without negative zero. */
export const twoDecimals = (value: number): string => value.toFixed(2).replace('-0.00', '0.00')
