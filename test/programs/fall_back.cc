// Calls the CUDA backend without the addon: captures a graph, turns wgmma off, and replays the graph.
#include <dlfcn.h>
#include <stdio.h>

#include <initializer_list>

#include "lily/backend.h"

namespace {

const lily_backend *backend;

void print(const char *what, lily_status status) {
  printf("%s: %s\n", what, status == LILY_OK ? "ok" : backend->last_error());
}

bool capture(lily_stream stream, void *memory, lily_graph *graph) {
  return backend->capture_begin(0, stream) == LILY_OK && backend->fill(0, memory, 1, 4, stream) == LILY_OK &&
         backend->capture_end(0, stream, graph) == LILY_OK;
}

}  // namespace

int main(int, char **arguments) {
  void *library = dlopen(arguments[1], RTLD_NOW);
  const auto entry =
      library == nullptr ? nullptr : reinterpret_cast<lily_backend_entry>(dlsym(library, LILY_BACKEND_ENTRY));
  if (entry == nullptr) return printf("%s\n", dlerror()), 1;
  backend = entry(LILY_ABI_VERSION);
  lily_stream stream = 0;
  lily_graph before = 0, after = 0;
  lily_event end = 0;
  void *memory = nullptr;
  if (backend->stream_create(0, &stream) != LILY_OK || backend->event_create(0, 0, &end) != LILY_OK ||
      backend->allocate(0, 4, &memory) != LILY_OK)
    return 1;
  if (!capture(stream, memory, &before)) return 1;
  print("before", backend->graph_launch(0, before, stream));
  print("fall back", backend->device_fall_back(0));
  print("again", backend->graph_launch(0, before, stream));
  if (!capture(stream, memory, &after)) return 1;
  print("captured again", backend->graph_launch(0, after, stream));
  if (backend->event_record(0, end, stream) != LILY_OK || backend->event_synchronize(0, end) != LILY_OK) return 1;
  for (lily_graph graph : {before, after}) backend->graph_destroy(0, graph);
  backend->event_destroy(0, end);
  backend->stream_destroy(0, stream);
  backend->release(0, memory);
  return backend->close();
}
