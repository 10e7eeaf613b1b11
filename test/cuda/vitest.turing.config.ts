import { project } from '../support/project.js'
import { findEmulator } from './find.js'

/** The oldest architecture, with another schedule of the emulator. */
export default project('turing', {
  needs: () => findEmulator('75', '3'),
  env: { LILY_TEST_BACKEND: 'cuda' },
})
