/**
 * Fused forward and backward passes of Lily (Low-Rank Interconnected Adaptation across Layers, arXiv 2407.09946) and
 * LoRA, on CPUs (natively or as WebAssembly) and CUDA devices; lily-kernels/webgpu runs them on a GPUDevice.
 *
 * `[M, d_in]` is a shape, the outermost dimension first; docs/math.md defines the symbols. Errors are LilyErrors; what a
 * function throws is listed by code, and a property throws nothing unless it says so. An Async form rejects its promise
 * with what the other form throws. An object with `dispose()` may be declared with `using`.
 *
 * @module lily-kernels
 * @packageDocumentation
 */
import { registerHost } from './binding/host.js'
import { registerModels } from './model/pretrained.js'
import { host } from './operations/dispatch.js'
import { runOnThread } from './operations/on-thread.js'

export { analyse, type AnalysisOptions } from './analysis/analyse.js'
export type { Analysis, LayerAnalysis, TargetAnalysis } from './analysis/analyse-lily.js'
export type { LoraAnalysis, LoraLayerAnalysis } from './analysis/analyse-lora.js'
export type { ExpertAnalysis } from './analysis/experts.js'
export type { RouterAnalysis } from './analysis/routers.js'
export type { SingularValueAnalysis, UpdateAnalysis } from './analysis/updates.js'
export {
  attentionBackward,
  type AttentionBackwardOperands,
  type AttentionBackwardOptions,
  attentionForward,
  type AttentionForwardOperands,
  type AttentionForwardOptions,
  type AttentionForwardResult,
  type AttentionGradients,
  type AttentionNeeds,
  AttentionSaved,
} from './operations/attention.js'
export { backends, type BackendInfo, type BackendName, type DeviceInfo } from './memory/backends.js'
export {
  lilyBackward,
  lilyBackwardAsync,
  type LilyBackwardOperands,
  type LilyBackwardOptions,
  type LilyGradients,
  type LilyNeeds,
} from './operations/backward.js'
export type { PretrainedFiles } from './checkpoint/adapter-files.js'
export type { FileData } from './checkpoint/file-data.js'
export type { LoadOptions } from './checkpoint/load.js'
export type { ModulesToSave, SavedModules } from './checkpoint/modules-to-save.js'
export { type AdamWState, readPretrainedState, readState, saveState, stateFile } from './checkpoint/optimiser-state.js'
export { SafetensorsFile, type StoredDType, type StoredTensor } from './checkpoint/safetensors-file.js'
export type { TensorEntry } from './checkpoint/safetensors-header.js'
export { writeSafetensors } from './checkpoint/safetensors-write.js'
export type { SaveOptions } from './checkpoint/save.js'
export { DeviceBuffer } from './tensor/device-buffer.js'
export type { DType, HostData } from './base/dtype.js'
export { LilyError, type LilyErrorCode, type LilyErrorDetails } from './base/errors.js'
export type { GpuBuffer, GpuCommandEncoder, GpuDevice } from './base/gpu-types.js'
export type { Exact, Named } from './base/options.js'
export { type DropoutOptions, dropoutState } from './operations/dropout.js'
export { foldB, type FoldOptions } from './operations/fold.js'
export {
  lilyForward,
  lilyForwardAsync,
  type LilyForwardOperands,
  type LilyForwardOptions,
  type LilyForwardResult,
  type RowsOptions,
} from './operations/forward.js'
export {
  linearBackward,
  linearBackwardAsync,
  linearForward,
  linearForwardAsync,
  type LinearBackwardOperands,
  type LinearBackwardResult,
  type LinearForwardOperands,
  type LinearForwardResult,
  type LinearOptions,
} from './operations/linear.js'
export { matMul, matMulAsync, type MatMulOperands, type MatMulOptions, type MatMulResult } from './operations/matmul.js'
export { PackedLinear, packLinear, type PackLinearOptions } from './operations/packed-linear.js'
export { type DLPackOptions, fromDLPack, toDLPack } from './dlpack/dlpack.js'
export { captureGraph, type Graph } from './tensor/graph.js'
export type { MaskLike, OffsetsLike, WeightsLike } from './operations/small-operands.js'
export {
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
  type LoraBackwardOperands,
  type LoraBackwardOptions,
  type LoraForwardOperands,
  type LoraForwardOptions,
  type LoraForwardResult,
  type LoraGradients,
} from './operations/lora.js'
export { emptyCache, memoryStats, type MemoryStats, type PoolStats } from './memory/memory-stats.js'
export {
  accountFor,
  rankForLora,
  ranksForLora,
  type Accounting,
  type AccountingOptions,
  type ParameterCounts,
  type RankForLora,
  type RanksForLora,
} from './model/accounting.js'
export type {
  AdapterBackwardOperands,
  AdapterBackwardOptions,
  AdapterForwardOperands,
  AdapterForwardOptions,
  AdapterForwardResult,
  AdapterLayer,
  AdapterSaved,
} from './model/adapter-layer.js'
export { AdapterModel, type AdapterModelClass, type AdapterModelOptions } from './model/adapter-model.js'
export {
  LilyAdapters,
  type AdaptersBackwardOperands,
  type AdaptersForwardOperands,
  type AdaptersForwardOptions,
  type AdaptersForwardResult,
  type AdaptersLayer,
  type AdaptersSaved,
} from './model/adapters.js'
export type { Calibration, CalibrationSamples, Calibrator, LayerCalibration } from './model/calibrate.js'
export type { LilyConfig, LilyConfigOptions, ModelRouting } from './model/lily-config.js'
export type { FrozenWeights } from './model/freeze.js'
export type { LayerBackwardOptions, LayerForwardOptions, LayerForwardResult, LilyLayer } from './model/lily-layer.js'
export type { LoraAdapter, LoraMatrices } from './model/lora-export.js'
export { LilyModel, type LilyModelOptions } from './model/lily-model.js'
export type { InitLoraWeights, LoraConfig, LoraConfigOptions } from './model/lora-config.js'
export type { LoraLayer, LoraLayerResult } from './model/lora-layer.js'
export { LoraModel, type LoraModelOptions } from './model/lora-model.js'
export type { MergeOptions } from './model/merge-layers.js'
export type { Parameter } from './model/parameter.js'
export type { PatternValues } from './model/pattern-values.js'
export type { TargetOptions } from './model/targets.js'
export type { LayerShape } from './model/layer-shape.js'
export type { Device } from './memory/device.js'
export { AdamW, type AdamWStepOptions } from './optimiser/adamw.js'
export type { AverageOptions, Distributed, Stepped } from './optimiser/distributed.js'
export type { AdamWGroup, AdamWOptions } from './optimiser/options.js'
export type { TrainableParameter } from './optimiser/parameters.js'
export type { Activation, Pool, Precision, Routing } from './operations/problem.js'
export type {
  DeviceTensorLike,
  DeviceTensorProvider,
  GpuTensorLike,
  HostTensorLike,
  NdArrayLike,
  OnnxTensorLike,
  TensorLike,
} from './tensor/resolve.js'
export type { LilySaved, LoraSaved, RowsSaved } from './operations/saved.js'
export { Event, Stream, type CudaDevice } from './tensor/stream.js'
export { deviceTensor } from './base/symbols.js'
export { cast } from './tensor/cast.js'
export { tensor, Tensor } from './tensor/tensor.js'

registerHost()
host.runOnThread = runOnThread
registerModels()
