/** examples/peft-checkpoint as a user runs it: a process of its own, importing the built package by its name. */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const golden = fileURLToPath(new URL('../fixtures/golden', import.meta.url))
const run = (...options: string[]) =>
  execFileSync(process.execPath, ['examples/peft-checkpoint/main.js', ...options], { cwd: root, encoding: 'utf8' })

describe('examples/peft-checkpoint', () => {
  it("matches PEFT's output and gradients", () => {
    const results = JSON.parse(run(golden, '--json')) as { name: string; error: number }[]
    // y and dx; A of two blocks and B, once per target; a router per layer and target.
    expect(results).toHaveLength(2 + 2 * (2 + 1) + 2 * 4)
    // Both sides are float32 runs of four layers; one layer may differ by 2e-6 from the exact numbers (golden.test.ts).
    for (const { name, error } of results) expect(error, name).toBeLessThanOrEqual(2e-6)
  })

  it('prints a table', () => {
    const lines = run().trimEnd().split('\n')
    expect(lines).toHaveLength(1 + 16)
    expect(lines[1]).toMatch(/^y +\d\.\de-\d+$/)
  })

  it('fails where the folder is not there', () => {
    expect(() => run('no-such-folder')).toThrow(/expected the path of a folder, got one that does not exist/)
  })
})
