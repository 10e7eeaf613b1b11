/**
 * What the example uses of the packages that `npm run example:finetune` installs, so that `npm run lint` does not require them.
 */
declare module '@huggingface/tokenizers' {
  export class Tokenizer {
    constructor(tokenizer: object, config: object)
    encode(text: string): { readonly ids: number[] }
  }
}
