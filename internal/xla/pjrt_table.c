#include "pjrt_table.h"

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
	const void* error;
	const char* message; // out
	size_t      size;    // out
} error_message_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  error;
} error_destroy_args;

// A table has no room for a context, so the real functions are kept by slot, one slot per plugin.
enum { SLOTS = 8 };
static fewstep_pjrt_fn real_create[SLOTS];
static int             used_slots;
static void*           created_client;

static void* create_in_slot(int slot, void* args) {
	void* error = real_create[slot](args);
	created_client = error ? NULL : ((client_create_args*)args)->client;
	return error;
}

#define SLOT(n) static void* create_##n(void* args) { return create_in_slot(n, args); }
SLOT(0) SLOT(1) SLOT(2) SLOT(3) SLOT(4) SLOT(5) SLOT(6) SLOT(7)
static const fewstep_pjrt_fn create_of_slot[SLOTS] = {
	create_0, create_1, create_2, create_3, create_4, create_5, create_6, create_7,
};

fewstep_table* fewstep_table_copy(const void* api) {
	const fewstep_table* real = api;
	if (real->struct_size < sizeof(fewstep_table) + FEWSTEP_TABLE_NEEDED * sizeof(fewstep_pjrt_fn)) {
		return NULL;
	}
	// Zeroes follow the copy: functions that a newer caller knows and this plugin does not read as NULL.
	fewstep_table* copy = calloc(1, real->struct_size + 4096);
	if (copy == NULL) {
		return NULL;
	}
	memcpy(copy, real, real->struct_size);
	if (used_slots < SLOTS) {
		real_create[used_slots] = real->functions[FEWSTEP_CLIENT_CREATE];
		copy->functions[FEWSTEP_CLIENT_CREATE] = create_of_slot[used_slots++];
	}
	return copy;
}

void* fewstep_take_created_client(void) {
	void* client = created_client;
	created_client = NULL;
	return client;
}

static char* take_message(const fewstep_table* table, void* error) {
	error_message_args m = {.struct_size = sizeof m, .error = error};
	table->functions[FEWSTEP_ERROR_MESSAGE](&m);
	char* text = calloc(1, m.size + 1);
	if (text != NULL && m.size > 0) {
		memcpy(text, m.message, m.size);
	}
	error_destroy_args d = {.struct_size = sizeof d, .error = error};
	table->functions[FEWSTEP_ERROR_DESTROY](&d);
	return text;
}

char* fewstep_device_memory(const fewstep_table* table, void* client, size_t device, fewstep_memory_stats* stats) {
	addressable_devices_args a = {.struct_size = sizeof a, .client = client};
	void* error = table->functions[FEWSTEP_CLIENT_ADDRESSABLE_DEVICES](&a);
	if (error != NULL) {
		return take_message(table, error);
	}
	if (device >= a.count) {
		return strdup("no such device");
	}
	memset(stats, 0, sizeof *stats);
	// The size that the interface counts ends with the last field, without padding.
	stats->struct_size = offsetof(fewstep_memory_stats, peak_pool_bytes_is_set) + sizeof(bool);
	stats->device = a.devices[device];
	error = table->functions[FEWSTEP_DEVICE_MEMORY_STATS](stats);
	return error == NULL ? NULL : take_message(table, error);
}
