/** Runs test files in any runtime. `bundle.ts` bundles this file with them. */
import { startTests, type Task, type VitestRunner } from '@vitest/runner'

/** The result of one test. */
export interface Outcome {
  readonly name: string
  /** Messages of the failure; empty if the test passed. */
  readonly errors: readonly string[]
  /** Why the test did not run; '' if it does not say why. */
  readonly skipped?: string
}

const MILLISECONDS = 60_000

/**
 * @param files imports of the test files, by their names
 * @param pattern of the names of the tests that run
 */
export async function run(
  files: Readonly<Record<string, () => Promise<unknown>>>,
  pattern?: RegExp,
): Promise<Outcome[]> {
  const runner: VitestRunner = {
    config: {
      root: '/',
      setupFiles: [],
      name: undefined,
      passWithNoTests: false,
      testNamePattern: pattern,
      allowOnly: false,
      sequence: { seed: 0, hooks: 'stack', setupFiles: 'list' },
      chaiConfig: undefined,
      maxConcurrency: 1,
      testTimeout: MILLISECONDS,
      hookTimeout: MILLISECONDS,
      retry: 0,
      includeTaskLocation: false,
      tags: [],
      tagsFilter: undefined,
      strictTags: false,
    },
    importFile: async (name) => await files[name]?.(),
  }
  return (await startTests(Object.keys(files), runner)).flatMap((file) => outcomes(file, file.name))
}

/** Those of the tests below a task, and the failure of the task itself: that of a suite means that it has no tests. */
function outcomes(task: Task, name: string): Outcome[] {
  const errors = (task.result?.errors ?? []).map(({ message, diff = '', stack = '' }) =>
    [message, diff, stack].filter((part) => part !== '').join('\n'),
  )
  if (task.result?.state === 'fail' && errors.length === 0 && task.type === 'test') errors.push('it failed')
  if (task.type === 'test') {
    const hasRun = ['pass', 'fail'].includes(task.result?.state ?? '')
    const { note = '' } = (task.result ?? {}) as { readonly note?: string }
    return [hasRun ? { name, errors } : { name, errors, skipped: note }]
  }
  const below = task.tasks.flatMap((each) => outcomes(each, `${name} > ${each.name}`))
  return errors.length > 0 ? [{ name, errors }, ...below] : below
}
