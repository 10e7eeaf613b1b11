import { existsSync } from 'node:fs'
import { findProgram } from '../support/find-program.js'
import { path, project } from '../support/project.js'

const ADDON = 'prebuilds/win32-x64/lily.node'

export default project('windows', {
  needs: () => {
    if (process.platform !== 'linux' || process.arch !== 'x64') return 'wine runs programs for x64 on Linux for x64'
    if (findProgram('wine') === undefined) return 'no wine (Debian: apt install wine wine64)'
    if (!existsSync(path(ADDON))) return `there is no ${ADDON}; npm run test:windows says why`
    return {}
  },
})
