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
 * A command without what does not change which program runs: variables before it, and npx.
 *
 * @type {(command: string) => string}
 */
const plain = (command) => command.replace(/^(env )?([A-Z_]+=('[^']*'|\S*) )*/, '').replace(/^npx (--no-install )?/, '')

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

/** What vitest runs, or undefined for another command. */
/** @type {(command: string) => { projects: string[], files: string[] } | undefined} */
function testsOf(command) {
  if (!command.startsWith('vitest run ')) return undefined
  const words = command.split(' ').slice(2)
  const projects = words.filter((_, i) => words[i - 1] === '--project')
  return { projects, files: words.filter((word, i) => word !== '--project' && words[i - 1] !== '--project') }
}

/**
 * Whether a command, or all that it does, is among those that have run.
 *
 * @param {string} command
 * @param {readonly string[]} ran
 * @param {Readonly<Record<string, string | undefined>>} scripts those of package.json
 * @returns {boolean}
 */
export function hasRun(command, ran, scripts) {
  /** @type {Set<string>} */
  const done = new Set()
  /** @type {(line: string) => void} */
  const add = (line) => {
    for (const each of line.split(' && ').map(plain)) {
      done.add(each)
      for (const part of partsOf(each, scripts) ?? []) add(part)
    }
  }
  for (const line of ran) add(line)
  const suites = [...done].flatMap((each) => testsOf(each) ?? [])
  /** @type {(line: string) => boolean} */
  const isDone = (line) => {
    const each = plain(line)
    if (done.has(each)) return true
    const tests = testsOf(each)
    if (tests !== undefined) {
      return tests.projects.every((project) =>
        suites.some(
          ({ projects, files }) =>
            projects.includes(project) &&
            (files.length === 0 || (tests.files.length > 0 && tests.files.every((file) => files.includes(file)))),
        ),
      )
    }
    return partsOf(each, scripts)?.every(isDone) ?? false
  }
  return command.split(' && ').every(isDone)
}
