/** The programs of the README and of docs/ that run on the CPU, with the output that the text says. */
import { testPrograms } from '../support/guides.js'

testPrograms('cpu')
