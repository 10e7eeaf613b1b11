/** What takes the place of other-versions.ts in lily-kernels/webgpu, to keep it small: pages load one version. */
import type * as versions from './other-versions.js'

export const isOfOtherVersion: typeof versions.isOfOtherVersion = () => false
export const versionText: typeof versions.versionText = () => ''
