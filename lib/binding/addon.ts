/** Finds and loads the native addon: the one built in a checkout, or the prebuilt one of the published package. */
import type { Native } from './native.js'
import { packageRoot, prebuilds } from './root.js'

const { existsSync } = process.getBuiltinModule('node:fs')
const { createRequire } = process.getBuiltinModule('node:module')

/** Prebuilt addons for Linux are for one C library each, which Alpine Linux replaces by another one. */
const libc =
  process.platform !== 'linux' ? '' : process.env.LIBC || (existsSync('/etc/alpine-release') ? 'musl' : 'glibc')

/** The machine, as messages name it. */
export const platform = `${process.platform}-${process.arch}${libc === 'musl' ? ' with musl' : ''}`

/** The path of the addon for this machine; null: there is none. */
export function findAddon(): string | null {
  // Two variables for tests: another folder with these files, and the files of the published package only.
  const root = process.env.LILY_KERNELS_PREBUILD || packageRoot
  const built = process.env.PREBUILDS_ONLY ? [] : [`${root}/build/Release/lily.node`]
  // The names of node-gyp-build.
  const prebuilt = `${process.platform}-${process.arch}/lily${libc && `.${libc}`}.node`
  const published = root === packageRoot ? [`${prebuilds}/${prebuilt}`] : []
  const files = [...built, `${root}/prebuilds/${prebuilt}`, ...published]
  return files.find((file) => existsSync(file)) ?? null
}

/** @throws any error of the runtime if it cannot load the file */
export function loadAddon(file: string): Native {
  return createRequire(file)(file) as Native
}
