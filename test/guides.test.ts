/** The programs of the README and of docs/ that run on the CPU, with the output that the text says. */
import { testPrograms, usesCuda } from './support/guides.js'

testPrograms('README.md', 5, (source) => !usesCuda(source))
testPrograms('docs/checkpoints.md', 6)
testPrograms('docs/linear.md', 3)
testPrograms('docs/model.md', 5)
testPrograms('docs/tfjs.md', 2)
