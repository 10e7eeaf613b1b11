// The probabilities of the next token by node-llama-cpp: arguments are a model and adapters; prints [token, probability] pairs
// as JSON. Runs in a folder in which node-llama-cpp is installed.
import { getLlama } from 'node-llama-cpp'

const [modelPath, ...adapters] = process.argv.slice(2)
const llama = await getLlama({ build: 'never', gpu: false, logLevel: 'error', progressLogs: false })
const model = await llama.loadModel({ modelPath })
const lora = adapters.length === 0 ? undefined : { adapters: adapters.map((filePath) => ({ filePath })) }
const context = await model.createContext({ contextSize: 32, threads: 1, lora })
const prompt = [1, 70, 9, 230, 46, 117]
// A token that ends the text would otherwise be left out, with its probabilities.
const sampling = { temperature: 1, topP: 1, topK: 0, minP: 0, yieldEogToken: true }
for await (const { probabilities } of context
  .getSequence()
  .evaluateWithMetadata(prompt, { probabilities: true }, sampling)) {
  console.log(JSON.stringify([...probabilities]))
  break
}
await llama.dispose()
