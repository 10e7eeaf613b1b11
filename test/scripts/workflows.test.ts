/** The workflows of GitHub: what they may do, and which of their commands the gate has run. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { hasRun, readWorkflows } from '../../scripts/workflow-commands.js'

const ACTIONS = [
  'actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1',
  'actions/setup-node@820762786026740c76f36085b0efc47a31fe5020',
  'actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f',
]

const workflows = [...readWorkflows()]
const jobs = workflows.flatMap(([file, { jobs }]) =>
  Object.entries(jobs).map(([name, job]) => ({ name: `${file}, ${name}`, job })),
)

test('there are two', () => {
  expect(workflows.map(([name]) => name)).toEqual(['ci.yml', 'release.yml'])
})

test.each(workflows)('%s may read the repository, has one run at a time, and no secrets', (file, workflow) => {
  expect(workflow.permissions).toEqual({ contents: 'read' })
  expect(workflow.concurrency).toHaveProperty('group')
  expect(readFileSync(join(packageRoot, '.github', 'workflows', file), 'utf8')).not.toContain('secrets')
})

test.each(jobs)('$name', ({ name, job }) => {
  const granted = job.permissions ?? { contents: 'read' }
  const used = { contents: 'read', ...(job.steps.some(({ run }) => run?.startsWith('gh ')) && { actions: 'read' }) }
  expect(granted).toEqual(name === 'release.yml, publish' ? { ...used, 'id-token': 'write' } : used)
  expect(job['timeout-minutes']).toBeGreaterThan(0)
  for (const { uses, with: inputs, run = '' } of job.steps) {
    if (uses !== undefined) expect(ACTIONS).toContain(uses)
    if (uses?.startsWith('actions/checkout@')) expect(inputs).toMatchObject({ 'persist-credentials': false })
    // The value of an expression would become part of the program.
    expect(run).not.toContain('${{')
    expect(run).not.toContain('\n')
  }
})

test('only a person starts a release, and main is what is released', () => {
  const { on, jobs } = new Map(workflows).get('release.yml')!
  expect(Object.keys(on)).toEqual(['workflow_dispatch'])
  expect(jobs.publish).toMatchObject({ if: "github.ref == 'refs/heads/main'", needs: ['try', 'alpine'] })
  const publishing = Object.values(jobs).flatMap(({ steps }) => steps.filter(({ run }) => run?.includes('npm publish')))
  expect(publishing).toEqual([{ run: expect.stringContaining(' --provenance ') as string }])
})

test('which commands others include', () => {
  const scripts = {
    pretest: 'npm run build:all',
    test: 'vitest run --project cpu --project wasm',
    'build:all': 'make a && make b',
  }
  const ran = ['env CXX=g++-12 npm test', "A='b c' npx vitest run --project node test/x.test.ts", '.ci/fresh-machine x']
  const isDone = (command: string) => hasRun(command, ran, scripts)
  for (const command of [
    'npm test',
    'npm run test',
    'npm run build:all',
    'make b',
    'make a && make b',
    'npx vitest run --project cpu',
    'vitest run --project wasm test/y.test.ts',
    'vitest run --project node test/x.test.ts',
  ]) {
    expect(isDone(command), command).toBe(true)
  }
  for (const command of [
    'make c',
    'make a && make c',
    'npm run build:all -- --more',
    'npm ci',
    'npm run missing',
    'vitest run --project cpu --project node',
    'vitest run --project node test/y.test.ts',
    'vitest run --project other',
  ]) {
    expect(isDone(command), command).toBe(false)
  }
})
