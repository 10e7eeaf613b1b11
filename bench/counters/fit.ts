/**
 * Fits the constants of a GPU to measured times: least squares of the logarithms of predicted and measured time, so that a
 * launch of 3 us counts as much as one of 300. Levenberg and Marquardt's method on the logarithms of the constants, which are
 * all positive. A time is the maximum of several limits, so a constant may have no effect near its value: after the method has
 * converged, each constant is also tried at a distance.
 */
import { Matrix, solve } from 'ml-matrix'

export type Constants = Readonly<Record<string, number>>

/** Predicted seconds of each measurement. */
export type Predict = (constants: Constants) => readonly number[]

export interface Fit {
  readonly constants: Constants
  /** Those that no measurement depends on. They keep their values. */
  readonly undetermined: readonly string[]
  /** Root mean square of log(predicted / measured), before and after. */
  readonly errorBefore: number
  readonly errorAfter: number
}

/** For the derivatives: larger than the steps that a tile more or less makes in most predictions. */
const DIFFERENCE = 0.02
/** The most by which a step changes a constant, as a factor. */
const MOST_CHANGE = Math.log(1.5)
const DISTANCES = [0.5, 0.7, 0.85, 1.2, 1.4, 2].map(Math.log)
const STEPS = 60
const MOST_DAMPING = 1e3
/** A gain in the error that is worth another step. */
const LEAST_GAIN = 1e-5
/** A constant by which no prediction changes more than this, relative to its own change, is undetermined. */
const LEAST_EFFECT = 1e-3

export function fit(start: Constants, measured: readonly number[], predict: Predict): Fit {
  // Zero: the GPU has no such unit.
  const names = Object.keys(start).filter((name) => start[name] > 0)
  const effects = names.map(() => 0)
  const pointOf = (constants: Constants) => {
    const residuals = predict(constants).map((seconds, i) => Math.log(seconds / measured[i]))
    const error = Math.sqrt(residuals.reduce((sum, value) => sum + value * value, 0) / residuals.length)
    return { constants, residuals, error }
  }
  type Point = ReturnType<typeof pointOf>
  const moved = ({ constants }: Point, changes: readonly number[]): Point =>
    pointOf({
      ...constants,
      ...Object.fromEntries(names.map((name, i) => [name, constants[name] * Math.exp(changes[i])])),
    })
  /** Changes one constant, and notes what that changes. */
  const movedAlong = (from: Point, column: number, change: number): Point => {
    const there = moved(
      from,
      names.map((_, i) => (i === column ? change : 0)),
    )
    const most = Math.max(...there.residuals.map((value, i) => Math.abs(value - from.residuals[i])))
    effects[column] = Math.max(effects[column], most / Math.abs(change))
    return there
  }

  const descend = (from: Point): Point => {
    let [now, damping] = [from, 1e-2]
    for (let step = 0; step < STEPS && damping < MOST_DAMPING; step++) {
      const slopes = names.map((_, column) => {
        const { residuals } = movedAlong(now, column, DIFFERENCE)
        return residuals.map((value, i) => (value - now.residuals[i]) / DIFFERENCE)
      })
      const jacobian = new Matrix(slopes).transpose()
      const normal = jacobian.transpose().mmul(jacobian)
      const gradient = jacobian.transpose().mmul(Matrix.columnVector(now.residuals))
      const before = now
      while (now === before && damping < MOST_DAMPING) {
        // The same for all constants: what hardly any measurement determines stays where it is.
        const damped = normal.clone().add(Matrix.eye(names.length).mul(damping * measured.length))
        const changes = solve(damped, gradient).to1DArray()
        const next = moved(
          now,
          changes.map((change) => Math.min(MOST_CHANGE, Math.max(-MOST_CHANGE, -change))),
        )
        if (next.error < now.error) {
          now = next
          damping /= 4
        } else {
          damping *= 8
        }
      }
      if (before.error - now.error < LEAST_GAIN) break
    }
    return now
  }

  const first = pointOf(start)
  let best = descend(first)
  for (let round = 0; round < STEPS; round++) {
    const tried = names.flatMap((_, column) => DISTANCES.map((change) => movedAlong(best, column, change)))
    const [better] = tried.filter(({ error }) => error < best.error - LEAST_GAIN).sort((a, b) => a.error - b.error)
    if (better === undefined) break
    best = descend(better)
  }
  return {
    constants: best.constants,
    undetermined: names.filter((_, i) => effects[i] < LEAST_EFFECT),
    errorBefore: first.error,
    errorAfter: best.error,
  }
}
