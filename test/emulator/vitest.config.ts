import { existsSync } from 'node:fs'
import { path, project } from '../support/project.js'

/** The tests of the emulator itself. */
export default project('emulator', {
  needs: () => (existsSync(path('build/emulator')) ? {} : 'the emulator is not built; npm run build:emulator says why'),
})
