/** The words of the tiny decoder, as Transformers.js reads them, and the text that it generates. */
// cspell:ignore vocab
import type { AdapterModel } from '../../lib/index.js'
import { bakedSession, ortOfNode } from './onnx-baked.js'
import { BLOCKS, D, decoderOnnx, HEADS, tinyDecoder, VOCABULARY } from './onnx-models.js'
import { DecoderSession } from './onnx-sessions.js'

/** The words of all tokens: those of a prompt, and others. */
export function wordsAfter(prompt: readonly string[]): string[] {
  return [...prompt, ...Array.from({ length: VOCABULARY - prompt.length }, (_, i) => `word${i}`)]
}

/** A prompt of the first four words, and the eight likeliest words after it. */
export async function generatedText(words: readonly string[], adapter: AdapterModel | null): Promise<string> {
  const decoder = new DecoderSession(ortOfNode(), await bakedSession(decoderOnnx(tinyDecoder()), adapter), 1)
  const tokens = [0, 1, 2, 3]
  let next = tokens.slice()
  for (let i = 0; i < 8; i++) {
    const { logits } = await decoder.call(next)
    const ofLast = logits.data.slice(-VOCABULARY)
    next = [ofLast.indexOf(Math.max(...ofLast))]
    tokens.push(...next)
  }
  return tokens.map((token) => words[token]).join(' ')
}

/** The files of the decoder's folder by name, but for its model. */
export function decoderFiles(words: readonly string[]): Record<string, string> {
  const files = {
    'config.json': {
      ...{ model_type: 'llama', architectures: ['LlamaForCausalLM'], vocab_size: VOCABULARY, hidden_size: D },
      ...{ num_hidden_layers: BLOCKS, num_attention_heads: HEADS, num_key_value_heads: HEADS },
    },
    'generation_config.json': {},
    'tokenizer_config.json': { tokenizer_class: 'PreTrainedTokenizerFast', unk_token: words.at(-1) },
    'tokenizer.json': {
      ...{ version: '1.0', added_tokens: [], normalizer: null, post_processor: null, decoder: null },
      pre_tokenizer: { type: 'Whitespace' },
      model: {
        type: 'WordLevel',
        vocab: Object.fromEntries(words.map((word, i) => [word, i])),
        unk_token: words.at(-1),
      },
    },
  }
  return Object.fromEntries(Object.entries(files).map(([name, content]) => [name, JSON.stringify(content)]))
}
