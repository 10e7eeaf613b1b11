/** The workflows of GitHub: what they may do, and that what they run exists. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { packageRoot } from '../../lib/binding/root.js'
import { names as projects } from '../support/project.js'
import { temporaryFolder } from '../support/temporary.js'

interface Step {
  readonly uses?: string
  readonly run?: string
  readonly with?: object
}

interface Job {
  readonly 'timeout-minutes': number
  readonly permissions?: object
  readonly needs?: string | readonly string[]
  readonly strategy?: { readonly matrix: { readonly system: readonly { name: string; runner: string }[] } }
  readonly steps: readonly Step[]
}

interface Workflow {
  readonly on: object
  readonly permissions: object
  readonly concurrency: object
  readonly jobs: Readonly<Record<string, Job>>
}

const ACTIONS = [
  'actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1',
  'actions/setup-node@820762786026740c76f36085b0efc47a31fe5020',
  'actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f',
]

const folder = join(packageRoot, '.github', 'workflows')
const read = (file: string) => readFileSync(join(folder, file), 'utf8')
const workflows = readdirSync(folder).map((file) => [file, parse(read(file)) as Workflow] as const)
const jobs = workflows.flatMap(([file, { jobs }]) =>
  Object.entries(jobs).map(([name, job]) => ({ name: `${file}, ${name}`, job })),
)

test('there are two', () => {
  expect(workflows.map(([name]) => name)).toEqual(['ci.yml', 'release.yml'])
})

test.each(workflows)('%s may read the repository, has one run at a time, and no secrets', (file, workflow) => {
  expect(workflow.permissions).toEqual({ contents: 'read' })
  expect(workflow.concurrency).toHaveProperty('group')
  expect(read(file)).not.toContain('secrets')
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

const release = new Map(workflows).get('release.yml')!

test('only a person starts a release, another one agrees to it, and main is what is released', () => {
  expect(Object.keys(release.on)).toEqual(['workflow_dispatch'])
  const { publish } = release.jobs
  expect(publish).toMatchObject({ if: "github.ref == 'refs/heads/main'", needs: ['try', 'alpine'], environment: 'npm' })
  const publishing = jobs.filter(({ job }) => job.steps.some(({ run }) => run?.includes('npm publish')))
  expect(publishing.map(({ job }) => job)).toEqual([publish])
  expect(publish.steps.at(-1)).toEqual({ run: expect.stringContaining(' --provenance ') as string })
})

test('nothing of a release runs before it is known to be ready', () => {
  const needs = Object.entries(release.jobs).map(([name, job]) => [name, [job.needs ?? []].flat()] as const)
  expect(needs.filter(([, names]) => names.length === 0).map(([name]) => name)).toEqual(['ready'])
})

test('a release has an addon of each system, each made by one job', () => {
  const commandsOf = (name: string) => release.jobs[name].steps.map(({ run }) => run)
  const { matrix } = release.jobs.addon.strategy!
  const own = matrix.system.map(({ name }) => name)
  expect(own).toEqual(['linux-arm64', 'darwin-arm64', 'darwin-x64'])
  expect(commandsOf('addon')).toContain('npm run prebuild -- --addon-only')
  expect(commandsOf('cuda')).toContain('npm run prebuild -- --target=linux-x64')
  // With the compiler of the gate.
  expect(release.jobs.package).toHaveProperty('container', 'debian:13')
  expect(commandsOf('package')).toContain('npm run prebuild -- --target=win32-x64')
  for (const name of ['addon', 'cuda']) expect(commandsOf(name)).toContain('npm run test:system')
  const tried = release.jobs.try.strategy!.matrix.system
  expect(tried.map(({ name }) => name).sort()).toEqual([...own, 'linux-x64', 'win32-x64'].sort())
  expect(tried).toContainEqual({ name: 'win32-x64', runner: 'windows-2025' })
})

const programs = temporaryFolder()

/** The exit code of the step of a release that starts a program, in whose place a shell script runs. */
function statusOf(job: string, program: string, script: string): number | null {
  const { run } = release.jobs[job].steps.find(({ run }) => run?.includes(`${program} `))!
  writeFileSync(join(programs, program), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  // The shell of GitHub.
  return spawnSync('bash', ['-e', '-o', 'pipefail', '-c', run!], {
    cwd: packageRoot,
    env: { ...process.env, PATH: `${programs}:${process.env.PATH}` },
  }).status
}

test('only a version that npm does not have is released', () => {
  const npm = (view: string) => statusOf('ready', 'npm', `case $1 in pkg) echo '"0.2.0"' ;; view) ${view} ;; esac`)
  expect(npm(`echo '["0.1.0","0.2.0-rc.1","0.2.1"]'`)).toBe(0)
  expect(npm(`echo '"0.1.0"'`)).toBe(0)
  expect(npm(`echo '["0.1.0","0.2.0"]'`)).toBe(1)
  // There is no such package, or no network.
  expect(npm('exit 1')).toBe(1)
})

test('only a commit that CI has passed for is released', () => {
  expect(statusOf('ready', 'gh', 'echo https://github.com/runs/1')).toBe(0)
  expect(statusOf('ready', 'gh', 'exit 0')).toBe(1)
  expect(statusOf('ready', 'gh', 'echo https://github.com/runs/1; exit 1')).toBe(1)
})

test('an addon for macOS requires the libraries of macOS alone', () => {
  const otool = (...lines: string[]) =>
    statusOf('addon', 'otool', `printf '${['prebuilds/darwin-arm64/lily.node:', ...lines].join('\\n\\t')}\\n'`)
  const own = '/usr/lib/libc++.1.dylib (compatibility version 1.0.0, current version 1900.178.0)'
  expect(otool(own)).toBe(0)
  expect(otool(own, '/opt/homebrew/opt/gcc/lib/gcc/current/libstdc++.6.dylib (compatibility version 7.0.0)')).toBe(1)
  expect(statusOf('addon', 'otool', 'exit 0')).toBe(1)
})

test('CI fails without the formatter of native/', () => {
  const statusWith = (CI: string) =>
    spawnSync(process.execPath, ['scripts/format-native.js', '--check'], { cwd: packageRoot, env: { CI, PATH: '' } })
      .status
  expect(statusWith('true')).toBe(1)
  expect(statusWith('')).toBe(0)
})

test('every script, file and project that a workflow names exists', () => {
  const { scripts } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { scripts: object }
  const commands = jobs.flatMap(({ job }) => job.steps.flatMap(({ run }) => run ?? [])).join('\n')
  const named = (pattern: RegExp) => Array.from(commands.matchAll(pattern), ([, name]) => name)
  const npm = named(/\bnpm run ([\w:]+)/g)
  const files = named(/\b(?:node|npx tsx) (?:\/lily\/)?(scripts\/\S+)/g)
  const chosen = named(/--project (\w+)/g)
  for (const names of [npm, files, chosen]) expect(names.length).toBeGreaterThan(2)
  expect(npm.filter((name) => !Object.hasOwn(scripts, name))).toEqual([])
  expect(files.filter((file) => !existsSync(join(packageRoot, file)))).toEqual([])
  expect(chosen.filter((name) => !projects.includes(name))).toEqual([])
})
