import { project } from '../support/project.js'
import { findEmulator } from './find.js'

/** An architecture that executes the published PTX, with another schedule of the emulator. */
export default project('newer', { needs: () => findEmulator('110', '2'), env: { LILY_TEST_BACKEND: 'cuda' } })
