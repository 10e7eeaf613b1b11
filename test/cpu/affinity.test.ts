/** The CPU affinity that limits the default number of threads: its processors and their cores, on fake machines. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { compileProgram } from '../support/compile.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let program: string
beforeAll(() => {
  program = compileProgram('affinity', ['system/linux/affinity.cc'], folder)
})

interface Machine {
  /** Processors that the affinity of the kernel has room for; 1024 is the room of a cpu_set_t. */
  room?: number
  /** The processors of each core; null hides them. */
  cores: number[][] | null
  allowed: number[]
}

/** `count` cores with two hardware threads, numbered as Linux does on x86: the second ones after all first ones. */
const cores = (count: number) => Array.from({ length: count }, (_, i) => [i, i + count])

const machines: Record<string, [processors: number, cores: number, Machine]> = {
  'all of four cores': [8, 4, { cores: cores(4), allowed: [0, 1, 2, 3, 4, 5, 6, 7] }],
  'both hardware threads of two cores': [4, 2, { cores: cores(32), allowed: [0, 1, 32, 33] }],
  'one hardware thread of each of three cores': [3, 3, { cores: cores(32), allowed: [0, 5, 40] }],
  'numbers with holes': [2, 2, { cores: [[0], [7], [900]], allowed: [7, 900] }],
  'a kernel with more processors than a cpu_set_t': [
    3,
    2,
    { room: 8192, cores: [[3], [1500, 1501]], allowed: [3, 1500, 1501] },
  ],
  'cores are not visible in the container': [3, 3, { cores: null, allowed: [0, 1, 2] }],
}

test.each(Object.entries(machines))('%s', (name, [processors, coreCount, { room = 1024, cores, allowed }]) => {
  const root = join(folder, name.replaceAll(/\W/g, '-'))
  for (const siblings of cores ?? [])
    for (const processor of siblings) {
      const topology = join(root, `sys/devices/system/cpu/cpu${processor}/topology`)
      mkdirSync(topology, { recursive: true })
      writeFileSync(join(topology, 'thread_siblings_list'), `${siblings.join(',')}\n`)
    }
  const text = execFileSync(program, [root, String(room), ...allowed.map(String)], { encoding: 'utf8' })
  expect(text).toBe(`${processors} ${coreCount}\n`)
})
