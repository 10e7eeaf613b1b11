/** The builds of the module. tsdown.config.ts makes files for browsers of them, which export the deflated bytes in base64. */
declare module '*.wasm' {
  const deflated: string
  export default deflated
}
