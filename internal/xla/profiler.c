#include "profiler.h"

#include <stdlib.h>
#include <string.h>

// PJRT's profiler extension and the plugin profiler interface behind it (OpenXLA,
// xla/backends/profiler/plugin/profiler_c_api.h).
enum { EXTENSION_PROFILER = 1 };

typedef struct extension {
	size_t            struct_size;
	int               type;
	struct extension* next;
	const void*       api; // of the profiler extension
} extension;

typedef struct {
	size_t      struct_size;
	const char* options; // serialised ProfileOptions
	size_t      options_size;
	void*       profiler; // out
} profiler_create_args;

typedef struct {
	size_t struct_size;
	void*  profiler;
} profiler_args;

typedef struct {
	size_t   struct_size;
	void*    profiler;
	uint8_t* buffer; // out, the profiler's
	size_t   size;   // out
} profiler_collect_args;

typedef struct {
	size_t          struct_size;
	void*           priv;
	fewstep_pjrt_fn error_destroy, error_message, error_get_code, create, destroy, start, stop, collect_data;
} profiler_api;

static const profiler_api* api_of(const fewstep_table* table) {
	for (const extension* e = table->extension_start; e != NULL; e = e->next) {
		if (e->type == EXTENSION_PROFILER && e->struct_size >= sizeof *e && e->api != NULL) {
			const profiler_api* api = e->api;
			return api->struct_size >= sizeof *api ? api : NULL;
		}
	}
	return NULL;
}

bool fewstep_has_profiler(const fewstep_table* table) { return api_of(table) != NULL; }

const char* fewstep_profile_start(const fewstep_table* table, void** profiler) {
	const profiler_api* api = api_of(table);
	if (api == NULL) {
		return "this plugin has no profiler";
	}
	// Host events of level 1, device events, version 1 of the options.
	static const char options[] = {0x10, 1, 0x18, 1, 0x28, 1};
	profiler_create_args c = {.struct_size = sizeof c, .options = options, .options_size = sizeof options};
	if (api->create(&c) != NULL) {
		return "the plugin's profiler cannot be made";
	}
	profiler_args s = {.struct_size = sizeof s, .profiler = c.profiler};
	if (api->start(&s) != NULL) {
		api->destroy(&s);
		return "the plugin's profiler does not start";
	}
	*profiler = c.profiler;
	return NULL;
}

const char* fewstep_profile_stop(const fewstep_table* table, void* profiler, char** bytes, size_t* size) {
	const profiler_api* api = api_of(table);
	profiler_args s = {.struct_size = sizeof s, .profiler = profiler};
	const char* message = NULL;
	profiler_collect_args c = {.struct_size = sizeof c, .profiler = profiler};
	if (api->stop(&s) != NULL) {
		message = "the plugin's profiler does not stop";
	} else if (api->collect_data(&c) != NULL || c.buffer == NULL) {
		message = "the plugin's profiler gives no data";
	} else if ((*bytes = malloc(c.size + 1)) == NULL) {
		message = "out of host memory";
	} else {
		memcpy(*bytes, c.buffer, c.size);
		*size = c.size;
	}
	api->destroy(&s);
	return message;
}
