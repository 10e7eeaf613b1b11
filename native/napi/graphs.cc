// CUDA graphs: capture of a stream's work, launch.
#include "napi/exports.h"
#include "napi/handles.h"

namespace lily::napi {
namespace {

// (stream)
void capture_begin(const Napi::CallbackInfo &info) {
  Stream &stream = *argument<StreamHandle>(info, 0).stream;
  if (stream.has_ended()) throw make_error(info.Env(), "ERR_LILY_DISPOSED", "the stream has been disposed of");
  if (stream.is_default()) {
    throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "the default stream of a device cannot be captured");
  }
  check(info.Env(), cuda(info.Env()), stream.begin_capture());
}

// (stream) -> graph
Napi::Value capture_end(const Napi::CallbackInfo &info) {
  const lily_backend &backend = cuda(info.Env());
  Stream &stream = *argument<StreamHandle>(info, 0).stream;
  if (!stream.is_capturing()) throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "the stream is not being captured");
  lily_graph graph = 0;
  check(info.Env(), backend, stream.end_capture(&graph));
  return wrap(info.Env(), std::make_unique<GraphHandle>(backend, stream.device(), graph));
}

// (graph, stream)
void graph_launch(const Napi::CallbackInfo &info) {
  const GraphHandle &handle = argument<GraphHandle>(info, 0);
  if (handle.graph == 0) throw make_error(info.Env(), "ERR_LILY_DISPOSED", "the graph has been disposed of");
  check(info.Env(), handle.backend, handle.backend.graph_launch(handle.device, handle.graph, stream_number(info, 1)));
}

// (graph)
void graph_destroy(const Napi::CallbackInfo &info) {
  GraphHandle &handle = argument<GraphHandle>(info, 0);
  check(info.Env(), handle.backend, handle.destroy());
}

}  // namespace

void add_graph_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("captureBegin", Napi::Function::New<capture_begin>(env));
  exports.Set("captureEnd", Napi::Function::New<capture_end>(env));
  exports.Set("graphLaunch", Napi::Function::New<graph_launch>(env));
  exports.Set("graphDestroy", Napi::Function::New<graph_destroy>(env));
}

}  // namespace lily::napi
