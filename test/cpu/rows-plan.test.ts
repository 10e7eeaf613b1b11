/** The plans of calls over disjoint rows run in rounds. A C++ program prints them; nothing is computed. */
import { execFileSync } from 'node:child_process'
import { beforeAll, expect, test } from 'vitest'
import { compilePlans } from '../support/compile.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let program: string
beforeAll(() => {
  program = compilePlans(folder)
})

interface Rounds {
  /** Of each call alone, without those that run together with the one before. */
  steps: number[]
  /** Of each step, of all calls. */
  tasks: number[]
  rounds: number[]
  /** Each round runs the tasks of one step of each call, and the size of the workspace is that without one. */
  sameTasks: boolean
}

/** Tokens, groups, d_in, d_out, r, E, routing (batch, sequence, token, uniform, fixed, LoRA, learned) and type of each call. */
type Call = [number, number, number, number, number, number, number, number]
const lists: Record<string, Call[]> = {
  'decoding, 8 of LoRA': Array.from({ length: 8 }, () => [4, 1, 4096, 4096, 16, 1, 5, 0]),
  'all routings, one call without tokens': [
    [300, 1, 512, 768, 8, 1, 5, 0],
    [1, 1, 512, 768, 16, 4, 0, 0],
    [0, 1, 512, 768, 16, 4, 0, 0],
    [1500, 5, 512, 768, 32, 4, 1, 0],
    [90, 1, 512, 768, 4, 8, 2, 0],
    [700, 3, 512, 768, 64, 2, 4, 0],
    [65, 1, 512, 768, 300, 2, 3, 0],
    [65, 1, 512, 768, 16, 4, 6, 0],
  ],
}

function plansOf(calls: Call[]): { threads: number; forward: Rounds; backward: Rounds }[] {
  const text = execFileSync(program, ['16:64', ...calls.flat().map(String)], { encoding: 'utf8' })
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as ReturnType<typeof plansOf>[number])
}

test.each(Object.entries(lists))('%s: as many rounds as the longest plan has steps', (_, calls) => {
  const plans = plansOf(calls)
  expect(plans.map(({ threads }) => threads)).toEqual(Array.from({ length: 64 }, (_, i) => i + 1))
  for (const { forward, backward } of plans)
    for (const { steps, tasks, rounds, sameTasks } of [forward, backward]) {
      expect(rounds).toHaveLength(Math.max(...steps))
      expect(rounds).toEqual(tasks)
      expect(sameTasks).toBe(true)
    }
})

test('decoding takes three rounds, and backward four with rows that are gathered', () => {
  for (const { forward, backward } of plansOf(lists['decoding, 8 of LoRA'])) {
    expect(forward.steps).toEqual(Array(8).fill(3))
    expect(backward.steps).toEqual([3, 4, 3, 4, 3, 4, 3, 4])
  }
})
