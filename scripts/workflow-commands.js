// The commands of .github/workflows, and which of them other commands include.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, '.github', 'workflows')

/**
 * @typedef {object} Step
 * @property {string} [uses]
 * @property {string} [run]
 * @property {Record<string, unknown>} [with]
 * @property {Record<string, string | number>} [env]
 */

/**
 * @typedef {object} Job
 * @property {string} runs-on
 * @property {number} [timeout-minutes]
 * @property {Record<string, string>} [permissions]
 * @property {string} [environment]
 * @property {string | readonly string[]} [needs]
 * @property {{ matrix: { system: readonly { name: string, runner: string }[] } }} [strategy]
 * @property {Record<string, string | number>} [env]
 * @property {readonly Step[]} steps
 */

/**
 * @typedef {object} Workflow
 * @property {Record<string, unknown>} on
 * @property {Record<string, string>} permissions
 * @property {object} concurrency
 * @property {Record<string, Job>} jobs
 */

/** @typedef {Readonly<Record<string, string>>} Variables of the environment */

/**
 * The workflows, by the names of their files.
 *
 * @returns {ReadonlyMap<string, Workflow>}
 */
export function readWorkflows() {
  const names = readdirSync(folder).sort()
  return new Map(names.map((name) => [name, parse(readFileSync(join(folder, name), 'utf8'))]))
}

/**
 * What of them cannot run on the machine of the gate, and why.
 *
 * @type {readonly (readonly [command: RegExp, reason: string])[]}
 */
export const ELSEWHERE = [
  [/\bapt-get install\b/, 'the gate has installed its packages'],
  [/^versions=\$\(npm view /, 'the package is not on npm'],
  [/^gh run list /, 'the workflow of this commit has not run'],
  [/^gh run download /, 'this is no run of GitHub'],
  [/^otool /, 'this is no Mac'],
  [/^mkdir prebuilds && cp -r build\/addons/, 'the addons of other systems are not here'],
  [/^npm pkg set /, 'it changes package.json'],
  [/^npm run check:package -- --gathered$/, 'the addons for macOS are not here'],
  [/^npm run prebuild -- --target=linux-x64$/, 'the CUDA library for all GPUs takes too long'],
  [/^npx vitest run --project package$/, 'of a release; the gate has tested the tarball of this machine'],
  [/^npm publish /, 'it publishes'],
]

/**
 * A command that sets variables of its own, and runs perhaps through npx.
 *
 * @param {string} line
 * @returns {{ command: string, env: Variables }}
 */
function split(line) {
  const [, variables = '', command = ''] =
    /^(?:env )?((?:[A-Z_]+=(?:'[^']*'|\S*) )*)(?:npx (?:--no-install )?)?(.*)$/s.exec(line) ?? []
  const pairs = [...variables.matchAll(/([A-Z_]+)=(?:'([^']*)'|(\S*)) /g)]
  return { command, env: Object.fromEntries(pairs.map(([, name, quoted, plain]) => [name, quoted ?? plain])) }
}

/**
 * What a program starts itself: check-package.js builds all addons for which there is a compiler.
 *
 * @type {Readonly<Record<string, readonly string[] | undefined>>}
 */
const STARTED = {
  'node scripts/check-package.js': ['npm run prebuild -- --addon-only', 'npm run prebuild -- --target=win32-x64'],
}

/**
 * The commands that npm runs for a script, or undefined for another command.
 *
 * @param {string} command
 * @param {Readonly<Record<string, string | undefined>>} scripts those of package.json
 * @returns {string[] | undefined}
 */
function partsOf(command, scripts) {
  const [, name, more = ''] = /^npm (?:run )?([\w:]+)(?: --( .*))?$/.exec(command) ?? []
  const script = name === undefined ? undefined : scripts[name]
  if (script === undefined) return undefined
  return [scripts[`pre${name}`], `${script}${more}`].flatMap((line) => line?.split(' && ') ?? [])
}

/**
 * What vitest runs, or undefined for another command.
 *
 * @type {(command: string) => { projects: string[], files: string[] } | undefined}
 */
function testsOf(command) {
  if (!command.startsWith('vitest run ')) return undefined
  const words = command.split(' ').slice(2)
  const projects = words.filter((_, i) => words[i - 1] === '--project')
  return { projects, files: words.filter((word, i) => word !== '--project' && words[i - 1] !== '--project') }
}

/**
 * Whether a command, or all that it does, is among those that have run, with its variables.
 *
 * @param {string} command
 * @param {readonly string[]} ran
 * @param {Readonly<Record<string, string | undefined>>} scripts those of package.json
 * @param {Variables} [variables]
 * @returns {boolean}
 */
export function hasRun(command, ran, scripts, variables = {}) {
  /** @type {{ command: string, env: Variables }[]} */
  const done = []
  /** @type {(line: string, outer: Variables) => void} */
  const add = (line, outer) => {
    for (const each of line.split(' && ').map(split)) {
      const env = { ...outer, ...each.env }
      done.push({ command: each.command, env })
      for (const part of partsOf(each.command, scripts) ?? STARTED[each.command] ?? []) add(part, env)
    }
  }
  for (const line of ran) add(line, {})
  /** @type {(line: string, outer: Variables) => boolean} */
  const isDone = (line, outer) => {
    const { command, env: own } = split(line)
    const wanted = Object.entries({ ...outer, ...own })
    const fitting = done.filter(({ env }) => wanted.every(([name, value]) => env[name] === value))
    if (fitting.some((each) => each.command === command)) return true
    const tests = testsOf(command)
    if (tests !== undefined) {
      const suites = fitting.flatMap((each) => testsOf(each.command) ?? [])
      return tests.projects.every((project) =>
        suites.some(
          ({ projects, files }) =>
            projects.includes(project) &&
            (files.length === 0 || (tests.files.length > 0 && tests.files.every((file) => files.includes(file)))),
        ),
      )
    }
    return partsOf(command, scripts)?.every((part) => isDone(part, { ...outer, ...own })) ?? false
  }
  return command.split(' && ').every((line) => isDone(line, variables))
}
