// Which files prebuilds/ has in a release, and the most bytes of each.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'

/** What a Linux machine makes. */
const MADE_ON_LINUX = [
  'linux-arm64/lily.glibc.node',
  'linux-x64/lily.glibc.node',
  'linux-x64/lily_cuda.so',
  'win32-x64/lily.node',
]

/** What the release workflow makes: only there does a Mac run the addons for macOS. */
const GATHERED = [...MADE_ON_LINUX, 'darwin-arm64/lily.node', 'darwin-x64/lily.node']

/** The most bytes of an addon as the tarball has it, so that growth is noticed. */
const MOST_BYTES = 2e6

/**
 * What is wrong with a folder of prebuilt files, a text for each.
 *
 * @param {string} folder
 * @param {'gathered' | 'release' | 'checkout'} kind where the package is made: by the release workflow, by a person who
 *   publishes from Linux, or by anybody, for tests
 * @returns {string[]}
 */
export function faultsOf(folder, kind) {
  const files = readdirSync(folder).flatMap((system) =>
    readdirSync(join(folder, system)).map((name) => `${system}/${name}`),
  )
  const released = kind === 'gathered' ? GATHERED : MADE_ON_LINUX
  // Tests need the addon of their machine, whichever it is, and use others if their cross compilers are installed.
  const own = kind === 'checkout' ? `${process.platform}-${process.arch}/` : undefined
  const missing = own === undefined ? released.filter((file) => !files.includes(file)) : []
  const others = files.filter((file) => !released.includes(file) && !(own !== undefined && file.startsWith(own)))
  const large = files.flatMap((file) => {
    if (!file.endsWith('.node')) return []
    const { length } = gzipSync(readFileSync(join(folder, file)), { level: 9 })
    return length > MOST_BYTES ? [`${file} has ${length} bytes when compressed, more than ${MOST_BYTES}`] : []
  })
  return [
    ...missing.map((file) => `there is no ${file}`),
    ...others.map((file) => `${file} is not part of a release from here; remove it`),
    ...large,
  ]
}
