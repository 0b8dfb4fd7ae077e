#include "pjrt_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
	size_t      struct_size;
	void*       extension_start;
	const void* create_options;
	size_t      num_options;
	void*       kv_get_callback;
	void*       kv_get_user_arg;
	void*       kv_put_callback;
	void*       kv_put_user_arg;
	void*       client; // out
	void*       kv_try_get_callback;
	void*       kv_try_get_user_arg;
} client_create_args;

typedef struct {
	size_t       struct_size;
	void*        extension_start;
	void*        client;
	void* const* devices; // out
	size_t       count;   // out
} addressable_devices_args;

typedef struct {
	size_t      struct_size;
	void*       extension_start;
	const void* of;   // an error, a client or a device description
	const char* text; // out
	size_t      size; // out
} text_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  object; // an error, an event or an executable
} object_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  event;
	bool   is_ready; // out
} is_ready_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  event;
	void (*callback)(void* error, void* user_arg);
	void* user_arg;
} on_ready_args;

typedef struct {
	size_t        struct_size;
	void*         extension_start;
	void*         executable;
	void*         options;
	void* const* const* arguments;
	size_t        num_devices;
	size_t        num_args;
	void** const* outputs;
	void**        device_complete_events; // out, one per device, unless NULL
	void*         execute_device;
} execute_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  send_callbacks;
	void*  receive_callbacks;
	size_t sends;
	size_t receives;
	int    launch_id;
} execute_options; // its beginning

typedef struct {
	size_t      struct_size;
	void*       extension_start;
	const void* executable;
	const char* bytes; // out
	size_t      size;  // out
	void*       backing; // out
	void (*delete_backing)(void*); // out
} serialize_args;

typedef struct {
	size_t      struct_size;
	void*       extension_start;
	void*       client;
	const char* bytes;
	size_t      size;
	void*       loaded; // out
	const char* overridden_options;
	size_t      overridden_options_size;
} deserialize_args;

typedef struct {
	size_t         struct_size;
	void*          extension_start;
	void*          client;
	const void*    data;
	int            type;
	const int64_t* dims;
	size_t         num_dims;
	const int64_t* byte_strides;
	size_t         num_byte_strides;
	int            host_buffer_semantics;
	void*          device;
	void*          memory;
	void*          device_layout;
	void*          done_with_host_buffer; // out
	void*          buffer;                // out
} from_host_args;

typedef struct {
	size_t  struct_size;
	void*   extension_start;
	void*   executable;
	int64_t device[5]; // out: code, arguments, outputs, aliased, scratch
	int64_t host[5];   // out
	int64_t more[5];   // out: peak, total, total allocations, indefinite, peak without padding
} executable_memory_args;

extern void* fewstepCompile(fewstep_table* real, fewstep_compile_args* args, uintptr_t request);

static _Thread_local uintptr_t request;

void fewstep_request(uintptr_t handle) { request = handle; }

// A table has no room for a context, so the real tables are kept by slot, one slot per plugin.
enum { SLOTS = 16 };
static const fewstep_table* real_table[SLOTS];
static int                  used_slots;
static void*                created_client;

// Stands for the completion of an execution that nobody waits for. It is no event of the plugin's: every function of the
// table that takes an event is stood in for, so that the plugin never sees it.
static char dispatched;

static uintptr_t    store;

void fewstep_store(uintptr_t handle) { store = handle; }

static void* create_in_slot(int slot, void* args) {
	client_create_args* c = args;
	if (store != 0 && c->struct_size >= sizeof *c) {
		c->kv_get_callback = fewstep_key_get;
		c->kv_put_callback = fewstep_key_put;
		c->kv_try_get_callback = fewstep_key_try_get;
		c->kv_get_user_arg = c->kv_put_user_arg = c->kv_try_get_user_arg = (void*)store;
	}
	void* error = real_table[slot]->functions[FEWSTEP_CLIENT_CREATE](args);
	created_client = error ? NULL : ((client_create_args*)args)->client;
	return error;
}

static void* compile_in_slot(int slot, void* args) {
	return fewstepCompile((fewstep_table*)real_table[slot], args, request);
}

static _Thread_local int launch;

void fewstep_launch(int number) { launch = number; }

// Execution without completion events returns when the work is queued. Whatever fails later poisons the outputs, so
// that reading them, or anything computed from them, returns the error.
static void* execute_in_slot(int slot, void* args) {
	execute_args* a = args;
	if (launch != 0) {
		((execute_options*)a->options)->launch_id = launch;
	}
	void** events = a->device_complete_events;
	a->device_complete_events = NULL;
	void* error = real_table[slot]->functions[FEWSTEP_LOADED_EXECUTE](a);
	a->device_complete_events = events;
	for (size_t i = 0; error == NULL && events != NULL && i < a->num_devices; i++) {
		events[i] = &dispatched;
	}
	return error;
}

static void* copy_in_slot(int slot, void* args) { return fewstep_copy(real_table[slot], args); }

static void* await_in_slot(int slot, void* args) {
	return ((object_args*)args)->object == &dispatched ? NULL : real_table[slot]->functions[FEWSTEP_EVENT_AWAIT](args);
}

static void* destroy_in_slot(int slot, void* args) {
	return ((object_args*)args)->object == &dispatched ? NULL : real_table[slot]->functions[FEWSTEP_EVENT_DESTROY](args);
}

static void* is_ready_in_slot(int slot, void* args) {
	is_ready_args* a = args;
	if (a->event != &dispatched) {
		return real_table[slot]->functions[FEWSTEP_EVENT_IS_READY](args);
	}
	a->is_ready = true;
	return NULL;
}

static void* error_in_slot(int slot, void* args) {
	return ((object_args*)args)->object == &dispatched ? NULL : real_table[slot]->functions[FEWSTEP_EVENT_ERROR](args);
}

static void* on_ready_in_slot(int slot, void* args) {
	on_ready_args* a = args;
	if (a->event != &dispatched) {
		return real_table[slot]->functions[FEWSTEP_EVENT_ON_READY](args);
	}
	a->callback(NULL, a->user_arg);
	return NULL;
}

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  buffer;
	void*  event; // out
} ready_event_args;

void fewstep_drop(const fewstep_table* real, void* error);

// wait_for returns when a buffer holds what was queued for it, with the error of that work.
static void* wait_for(const fewstep_table* real, void* buffer) {
	ready_event_args ready = {sizeof ready, NULL, buffer, NULL};
	void* error = real->functions[FEWSTEP_BUFFER_READY_EVENT](&ready);
	if (error != NULL) {
		return error;
	}
	object_args event = {sizeof event, NULL, ready.event};
	error = real->functions[FEWSTEP_EVENT_AWAIT](&event);
	fewstep_drop(real, real->functions[FEWSTEP_EVENT_DESTROY](&event));
	return error;
}

// A batch is copied during the call. What is larger is sent from where it lies, and the call returns when all of it is there: a
// caller gives the memory to others as soon as it may, and in a measurement on a GPU that four processes shared the last quarter
// of an array of 48 MiB was not what had been sent, though the plugin had said that it was done with the host's memory.
enum { SMALL_ELEMENTS = 1 << 22, IMMUTABLE_ONLY_DURING_CALL = 0 };

static void* from_host_in_slot(int slot, void* args) {
	const fewstep_table* real = real_table[slot];
	from_host_args* a = args;
	int64_t n = 1;
	for (size_t i = 0; i < a->num_dims && n <= SMALL_ELEMENTS; i++) {
		n *= a->dims[i];
	}
	if (n <= SMALL_ELEMENTS) {
		a->host_buffer_semantics = IMMUTABLE_ONLY_DURING_CALL;
	}
	void* memory = fewstep_destination(real, a->device);
	if (memory != NULL) {
		a->memory = memory;
	}
	void* error = real->functions[FEWSTEP_BUFFER_FROM_HOST](a);
	if (error == NULL && n > SMALL_ELEMENTS) {
		fewstep_drop(real, wait_for(real, a->buffer)); // who reads the buffer is told what went wrong
	}
	return error;
}

// Who asks for a buffer's address reads there without asking whether anything is there yet.
static void* unsafe_pointer_in_slot(int slot, void* args) {
	void* error = wait_for(real_table[slot], ((object_args*)args)->object);
	return error ? error : real_table[slot]->functions[FEWSTEP_BUFFER_UNSAFE_POINTER](args);
}

static void* opaque_pointer_in_slot(int slot, void* args) {
	void* error = wait_for(real_table[slot], ((object_args*)args)->object);
	return error ? error : real_table[slot]->functions[FEWSTEP_BUFFER_OPAQUE_POINTER](args);
}

#define SLOT(n) \
	static void* create_##n(void* args) { return create_in_slot(n, args); } \
	static void* compile_##n(void* args) { return compile_in_slot(n, args); } \
	static void* execute_##n(void* args) { return execute_in_slot(n, args); } \
	static void* from_host_##n(void* args) { return from_host_in_slot(n, args); } \
	static void* copy_##n(void* args) { return copy_in_slot(n, args); } \
	static void* await_##n(void* args) { return await_in_slot(n, args); } \
	static void* destroy_##n(void* args) { return destroy_in_slot(n, args); } \
	static void* is_ready_##n(void* args) { return is_ready_in_slot(n, args); } \
	static void* error_##n(void* args) { return error_in_slot(n, args); } \
	static void* on_ready_##n(void* args) { return on_ready_in_slot(n, args); } \
	static void* unsafe_pointer_##n(void* args) { return unsafe_pointer_in_slot(n, args); } \
	static void* opaque_pointer_##n(void* args) { return opaque_pointer_in_slot(n, args); }
SLOT(0) SLOT(1) SLOT(2) SLOT(3) SLOT(4) SLOT(5) SLOT(6) SLOT(7)
SLOT(8) SLOT(9) SLOT(10) SLOT(11) SLOT(12) SLOT(13) SLOT(14) SLOT(15)
#define ALL(f) {f##0, f##1, f##2, f##3, f##4, f##5, f##6, f##7, f##8, f##9, f##10, f##11, f##12, f##13, f##14, f##15}
static const fewstep_pjrt_fn create_of_slot[SLOTS] = ALL(create_);
static const fewstep_pjrt_fn compile_of_slot[SLOTS] = ALL(compile_);
static const fewstep_pjrt_fn execute_of_slot[SLOTS] = ALL(execute_);
static const fewstep_pjrt_fn from_host_of_slot[SLOTS] = ALL(from_host_);
static const fewstep_pjrt_fn copy_of_slot[SLOTS] = ALL(copy_);
static const fewstep_pjrt_fn await_of_slot[SLOTS] = ALL(await_);
static const fewstep_pjrt_fn destroy_of_slot[SLOTS] = ALL(destroy_);
static const fewstep_pjrt_fn is_ready_of_slot[SLOTS] = ALL(is_ready_);
static const fewstep_pjrt_fn error_of_slot[SLOTS] = ALL(error_);
static const fewstep_pjrt_fn on_ready_of_slot[SLOTS] = ALL(on_ready_);
static const fewstep_pjrt_fn unsafe_pointer_of_slot[SLOTS] = ALL(unsafe_pointer_);
static const fewstep_pjrt_fn opaque_pointer_of_slot[SLOTS] = ALL(opaque_pointer_);

fewstep_table* fewstep_table_copy(const void* api, bool layered) {
	const fewstep_table* real = api;
	if (real->struct_size < sizeof(fewstep_table) + FEWSTEP_TABLE_NEEDED * sizeof(fewstep_pjrt_fn)
		|| real->version.major_version != FEWSTEP_PJRT_MAJOR || used_slots == SLOTS) {
		return NULL;
	}
	// Zeroes follow the copy: functions that a newer caller knows and this plugin does not read as NULL.
	fewstep_table* copy = calloc(1, real->struct_size + 4096);
	if (copy == NULL) {
		return NULL;
	}
	memcpy(copy, real, real->struct_size);
	int slot = used_slots++;
	real_table[slot] = real;
	copy->functions[FEWSTEP_CLIENT_CREATE] = create_of_slot[slot];
	if (layered) {
		copy->functions[FEWSTEP_CLIENT_COMPILE] = compile_of_slot[slot];
		copy->functions[FEWSTEP_LOADED_EXECUTE] = execute_of_slot[slot];
		copy->functions[FEWSTEP_BUFFER_FROM_HOST] = from_host_of_slot[slot];
		copy->functions[FEWSTEP_BUFFER_COPY_TO_DEVICE] = copy_of_slot[slot];
		copy->functions[FEWSTEP_EVENT_AWAIT] = await_of_slot[slot];
		copy->functions[FEWSTEP_EVENT_DESTROY] = destroy_of_slot[slot];
		copy->functions[FEWSTEP_EVENT_IS_READY] = is_ready_of_slot[slot];
		copy->functions[FEWSTEP_EVENT_ERROR] = error_of_slot[slot];
		copy->functions[FEWSTEP_EVENT_ON_READY] = on_ready_of_slot[slot];
		copy->functions[FEWSTEP_BUFFER_UNSAFE_POINTER] = unsafe_pointer_of_slot[slot];
		copy->functions[FEWSTEP_BUFFER_OPAQUE_POINTER] = opaque_pointer_of_slot[slot];
	}
	return copy;
}

void* fewstep_take_created_client(void) {
	void* client = created_client;
	created_client = NULL;
	return client;
}

char* fewstep_take_message(const fewstep_table* table, void* error) {
	text_args m = {.struct_size = sizeof m, .of = error};
	table->functions[FEWSTEP_ERROR_MESSAGE](&m);
	char* text = calloc(1, m.size + 1);
	if (text != NULL && m.size > 0) {
		memcpy(text, m.text, m.size);
	}
	object_args d = {.struct_size = sizeof d, .object = error};
	table->functions[FEWSTEP_ERROR_DESTROY](&d);
	return text;
}

char* fewstep_device_memory(const fewstep_table* table, void* client, size_t device, fewstep_memory_stats* stats) {
	addressable_devices_args a = {.struct_size = sizeof a, .client = client};
	void* error = table->functions[FEWSTEP_CLIENT_ADDRESSABLE_DEVICES](&a);
	if (error != NULL) {
		return fewstep_take_message(table, error);
	}
	if (device >= a.count) {
		return strdup("no such device");
	}
	memset(stats, 0, sizeof *stats);
	// The size that the interface counts ends with the last field, without padding.
	stats->struct_size = offsetof(fewstep_memory_stats, peak_pool_bytes_is_set) + sizeof(bool);
	stats->device = a.devices[device];
	error = table->functions[FEWSTEP_DEVICE_MEMORY_STATS](stats);
	return error == NULL ? NULL : fewstep_take_message(table, error);
}

void* fewstep_compile_code(const fewstep_table* real, fewstep_compile_args* args, const char* code, size_t size, const char* options, size_t options_size) {
	const fewstep_program* before = args->program;
	fewstep_program changed = *before;
	changed.code = code;
	changed.code_size = size;
	const char* options_before = args->compile_options;
	size_t size_before = args->compile_options_size;
	args->program = &changed;
	args->compile_options = options;
	args->compile_options_size = options_size;
	void* error = real->functions[FEWSTEP_CLIENT_COMPILE](args);
	args->program = before;
	args->compile_options = options_before;
	args->compile_options_size = size_before;
	return error;
}

void fewstep_drop(const fewstep_table* real, void* error) {
	if (error != NULL) {
		free(fewstep_take_message(real, error));
	}
}

char* fewstep_serialize(const fewstep_table* real, void* loaded, char** bytes, size_t* size) {
	fewstep_get_args g = {.struct_size = sizeof g, .of = loaded};
	void* error = real->functions[FEWSTEP_LOADED_GET_EXECUTABLE](&g);
	if (error != NULL) {
		return fewstep_take_message(real, error);
	}
	serialize_args s = {.struct_size = sizeof s, .executable = g.got};
	error = real->functions[FEWSTEP_EXECUTABLE_SERIALIZE](&s);
	char* message = NULL;
	if (error != NULL) {
		message = fewstep_take_message(real, error);
	} else {
		*bytes = malloc(s.size > 0 ? s.size : 1);
		if (*bytes == NULL) {
			message = strdup("out of host memory");
		} else {
			memcpy(*bytes, s.bytes, s.size);
			*size = s.size;
		}
		if (s.delete_backing != NULL) {
			s.delete_backing(s.backing);
		}
	}
	object_args d = {.struct_size = sizeof d, .object = g.got};
	fewstep_drop(real, real->functions[FEWSTEP_EXECUTABLE_DESTROY](&d));
	return message;
}

int64_t fewstep_scratch_bytes(const fewstep_table* real, void* loaded) {
	fewstep_get_args g = {.struct_size = sizeof g, .of = loaded};
	void* error = real->functions[FEWSTEP_LOADED_GET_EXECUTABLE](&g);
	if (error != NULL) {
		fewstep_drop(real, error);
		return -1;
	}
	executable_memory_args m = {.struct_size = sizeof m, .executable = g.got};
	error = real->functions[FEWSTEP_EXECUTABLE_MEMORY_STATS](&m);
	int64_t bytes = error == NULL ? m.device[4] : -1;
	fewstep_drop(real, error);
	object_args d = {.struct_size = sizeof d, .object = g.got};
	fewstep_drop(real, real->functions[FEWSTEP_EXECUTABLE_DESTROY](&d));
	return bytes;
}

char* fewstep_deserialize(const fewstep_table* real, void* client, const char* bytes, size_t size, void** loaded) {
	deserialize_args d = {.struct_size = sizeof d, .client = client, .bytes = bytes, .size = size};
	void* error = real->functions[FEWSTEP_DESERIALIZE_AND_LOAD](&d);
	if (error != NULL) {
		return fewstep_take_message(real, error);
	}
	*loaded = d.loaded;
	return NULL;
}

char* fewstep_identity(const fewstep_table* real, void* client) {
	text_args version = {.struct_size = sizeof version, .of = client};
	addressable_devices_args a = {.struct_size = sizeof a, .client = client};
	void* error = real->functions[FEWSTEP_CLIENT_PLATFORM_VERSION](&version);
	if (error == NULL) {
		error = real->functions[FEWSTEP_CLIENT_ADDRESSABLE_DEVICES](&a);
	}
	fewstep_get_args description = {.struct_size = sizeof description};
	if (error == NULL && a.count > 0) {
		description.of = a.devices[0];
		error = real->functions[FEWSTEP_DEVICE_DESCRIPTION](&description);
	}
	text_args kind = {.struct_size = sizeof kind, .of = description.got};
	if (error == NULL && description.got != NULL) {
		error = real->functions[FEWSTEP_DESCRIPTION_KIND](&kind);
	}
	if (error != NULL) {
		fewstep_drop(real, error);
		return NULL;
	}
	size_t room = version.size + kind.size + 64;
	char* text = malloc(room);
	if (text != NULL) {
		snprintf(text, room, "%.*s|%.*s|%d.%d", (int)version.size, version.size ? version.text : "", (int)kind.size,
			kind.size ? kind.text : "", real->version.major_version, real->version.minor_version);
	}
	return text;
}
