import { mkdirSync, writeFileSync } from 'node:fs'
import { relative } from 'node:path'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type Reporter, type TestCase, type TestSpecification } from 'vitest/node'
import { path, pragmas } from './test/support/project.js'

/** Prints at the end why tests were skipped, a line for each reason, which the default reporter omits. */
class SkipReasons implements Reporter {
  private readonly skips: { file: string; reason: string }[] = []

  onTestCaseResult(test: TestCase): void {
    const result = test.result()
    if (result.state !== 'skipped') return
    const reason = result.note ?? 'no reason was given, or a hook failed'
    this.skips.push({ file: test.module.relativeModuleId, reason })
  }

  onTestRunEnd(): void {
    mkdirSync(path('build'), { recursive: true })
    writeFileSync(path('build/test-skips.json'), JSON.stringify(this.skips))
    const counts = new Map<string, number>()
    for (const { reason } of this.skips) counts.set(reason, (counts.get(reason) ?? 0) + 1)
    for (const [reason, count] of counts) console.log(`skipped, ${count} test${count > 1 ? 's' : ''}: ${reason}`)
  }
}

/** Starts the files that say `@long` first, so that no worker waits for one at the end. */
class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const file = relative(path('test'), moduleId)
      return file.endsWith('.test.ts') && pragmas(file).isLong ? 0 : 1
    }
    return (await super.sort(files)).sort((a, b) => place(a) - place(b))
  }
}

export default defineConfig({
  test: {
    // test/support/project.ts says which project runs which file.
    projects: ['test/*/vitest*.config.ts'],
    // Emulated kernels run on one thread, and the default leaves one processor idle.
    maxWorkers: '100%',
    sequence: { sequencer: LongFirst },
    // .ci/run reads the JSON files.
    reporters: ['default', new SkipReasons(), ['json', { outputFile: 'build/test-results.json' }]],
  },
})
