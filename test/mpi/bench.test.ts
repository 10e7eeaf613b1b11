/**
 * `bench:distributed` with small gradients and few rounds. The test checks that times exist, not their values.
 *
 * @project mpi
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { libraries, missingCommands } from '../../bench/distributed/launch.js'
import { distributedMarkdown, type DistributedReport } from '../../bench/distributed/report.js'
import { packageRoot } from '../../lib/binding/root.js'

const folder = mkdtempSync(join(tmpdir(), 'lily-bench-'))
afterAll(() => rmSync(folder, { recursive: true }))

const run = (...options: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', 'bench/distributed/main.ts', ...options], {
    cwd: packageRoot,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  })

test('the program compares the bits of all ways, and measures them', () => {
  const json = join(folder, 'distributed.json')
  const { status, stdout, stderr } = run('--quick', '--seconds', '0.01', '--json', json)
  expect(status, stderr).toBe(0)
  const report = JSON.parse(readFileSync(json, 'utf8')) as DistributedReport
  const installed = libraries.filter((library) => missingCommands(library).length === 0)
  expect(report).toMatchObject({ complete: true, ranks: 2 })
  expect(report.missing.map(({ name }) => name)).toEqual(
    libraries.filter((library) => !installed.includes(library)).map(({ name }) => name),
  )
  expect(report.rows.map(({ library, bytes }) => [library.replace(/ [\d.]+$/, ''), bytes])).toEqual(
    installed.flatMap(({ name }) => [0.25, 1].map((mebibytes) => [name, mebibytes * 2 ** 20])),
  )
  for (const { results } of report.rows) {
    expect(results.map(({ way }) => way)).toEqual(['MPI_Allreduce', 'array', 'model'])
    expect(Math.min(...results.map(({ median }) => median))).toBeGreaterThan(0)
    expect(results.map(({ samples }) => samples)).toEqual([3, 3, 3])
  }
  expect(stdout.trim()).toBe(distributedMarkdown(report).trim())
})

test('the program refuses folders that do not exist', () => {
  expect(run('--json', join(folder, 'none', 'distributed.json')).stderr).toContain('distributed.json does not exist')
})
