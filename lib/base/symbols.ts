const symbolDispose = Reflect.get(Symbol, 'dispose') as symbol | undefined

/** `Symbol.dispose`, or a stand-in on runtimes that lack it (Node before 20.5); no global is patched. */
export const disposeSymbol: typeof Symbol.dispose = (symbolDispose ?? Symbol.for('Symbol.dispose')) as never

export const inspectSymbol = Symbol.for('nodejs.util.inspect.custom')

/** The name of the method by which an object offers its device memory: `Symbol.for('lily.deviceTensor')`. */
export const deviceTensor: unique symbol = Symbol.for('lily.deviceTensor') as never
