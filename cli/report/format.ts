/** Numbers as people read them. */
export const milliseconds = (seconds: number): string => {
  const value = seconds * 1e3
  return value.toFixed(value < 0.1 ? 4 : value < 10 ? 3 : 1)
}

export const percent = (share: number): string => `${(share * 100).toFixed(0)}%`

export const giga = (rate: number): string => (rate / 1e9).toFixed(rate < 1e10 ? 1 : 0)

export const size = (bytes: number): string => (bytes < 2 ** 20 ? `${bytes / 2 ** 10} KiB` : `${bytes / 2 ** 20} MiB`)
