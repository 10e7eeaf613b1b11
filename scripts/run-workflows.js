#!/usr/bin/env node
// Runs on this machine those commands of .github/workflows that the gate has not run by then, so that no workflow names what
// does not exist or fails:
//
//     node scripts/run-workflows.js FILE
//
// FILE has the commands that the gate has run, one in a line (.ci/run writes it).
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ELSEWHERE, hasRun, readWorkflows } from './workflow-commands.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** Alpine Linux, as far as the package can tell. */
const DOCKER = /^docker run --rm --volume "\$PWD:\/lily:ro" "node:\$NODE-alpine" /

/** @type {unknown} */
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { scripts } = /** @type {{ scripts: Record<string, string | undefined> }} */ (manifest)
const [file = ''] = process.argv.slice(2)
const ran = readFileSync(file, 'utf8').split('\n').filter(Boolean)

let hasFailed = false
/** @type {Set<string>} */
const seen = new Set()
for (const [name, { jobs }] of readWorkflows()) {
  for (const [job, { env, steps }] of Object.entries(jobs)) {
    for (const step of steps) {
      const command = step.run
      /** @type {[string, string][]} */
      const pairs = Object.entries({ ...env, ...step.env }).flatMap(([name, value]) =>
        String(value).includes('${{') ? [] : [[name, String(value)]],
      )
      const variables = Object.fromEntries(pairs)
      const key = JSON.stringify([command, variables])
      if (command === undefined || seen.has(key)) continue
      seen.add(key)
      const reason =
        variables.LILY_CMAKE_ARGS === '-DLILY_CUDA=ON' && process.env.LILY_WITHOUT_CUDA === '1'
          ? 'LILY_WITHOUT_CUDA=1'
          : ELSEWHERE.find(([pattern]) => pattern.test(command))?.[1]
      // Those that the gate sets for all of its steps.
      const others = pairs.filter(([name, value]) => process.env[name]?.trim() !== value)
      const where = `${name}, ${job}: ${command}`
      if (reason !== undefined || hasRun(command, ran, scripts, Object.fromEntries(others))) {
        console.log(`lily-kernels: ${where}: ${reason ?? 'the gate has run it'}`)
        continue
      }
      const isAlpine = DOCKER.test(command)
      const local = isAlpine ? command.replace(DOCKER, 'LIBC=musl ').replaceAll('/lily/', '') : command
      console.log(`::: ${where}`)
      const { status } = spawnSync('bash', ['-e', '-o', 'pipefail', '-c', local], {
        cwd: root,
        env: { ...process.env, ...variables },
        stdio: ['ignore', 'inherit', 'inherit'],
      })
      if (status === 0) continue
      console.error(`lily-kernels: ${where} failed`)
      hasFailed = true
    }
  }
}
if (hasFailed) process.exit(1)
