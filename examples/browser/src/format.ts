/** Formatting of numbers. */

export const count = (value: number): string => value.toLocaleString('en')

export const percent = (share: number | null): string => (share === null ? '–' : `${(share * 100).toFixed(0)} %`)

export const threeDigits = (value: number): string => value.toPrecision(3)

export const twoDecimals = (value: number): string => value.toFixed(2).replace('-0.00', '0.00')

export const milliseconds = (seconds: number): string => {
  const value = seconds * 1e3
  return value.toFixed(value < 0.1 ? 4 : value < 10 ? 3 : 1)
}

export const countOf = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? '' : 's'}`

export const mebibytes = (bytes: number): string => `${count(Math.floor(bytes / 2 ** 20))} MiB`
