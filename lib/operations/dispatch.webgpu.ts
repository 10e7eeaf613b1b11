/** The file of lily-kernels/webgpu in the place of dispatch.ts: all calls run on a GPUDevice. */
export {
  backwardOnGpu as dispatchBackward,
  backwardOnGpuAsync as dispatchBackwardAsync,
  foldOnGpu as dispatchFold,
  forwardOnGpu as dispatchForward,
  forwardOnGpuAsync as dispatchForwardAsync,
} from './gpu.js'
