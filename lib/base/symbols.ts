/** Symbols of the methods by which other code recognises this package's objects. */

const symbolDispose = Reflect.get(Symbol, 'dispose') as symbol | undefined

/** `Symbol.dispose`, or a substitute on runtimes without it (Node.js before 20.5). No global object is modified. */
export const disposeSymbol: typeof Symbol.dispose = (symbolDispose ?? Symbol.for('Symbol.dispose')) as never

/** The method that `util.inspect` of Node.js calls. */
export const inspectSymbol = Symbol.for('nodejs.util.inspect.custom')

/**
 * Name of the method that returns an object's device memory as a `DeviceTensorLike`: `Symbol.for('lily.deviceTensor')`.
 */
export const deviceTensor: unique symbol = Symbol.for('lily.deviceTensor') as never
