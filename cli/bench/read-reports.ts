/** Reads the files of `--json`. */
import { doubtsOf } from '../../bench/harness/doubts.js'
import type { Report, Result } from '../../bench/harness/report.js'
import { verdictOf } from './verdict.js'

/** The reports in the text of a file, also in one of an earlier version, which had no verdict, no doubts and no ratios by round. */
export function readReports(text: string): Report[] {
  return (JSON.parse(text) as Stored[]).map((report) => {
    const results = report.results.map((result): Result => {
      return { doubts: doubtsOf(result, result.floor), lilyRatio: null, ...result }
    })
    return { verdict: verdictOf({ ...report, results }), ...report, results }
  })
}

type Optional<T, K extends keyof T> = Omit<T, K> & Partial<Pick<T, K>>

type StoredResult = Optional<Result, 'doubts' | 'lilyRatio'>

interface Stored extends Optional<Omit<Report, 'results'>, 'verdict'> {
  readonly results: readonly StoredResult[]
}
