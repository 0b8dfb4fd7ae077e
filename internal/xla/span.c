#include "pjrt_table.h"

#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

// Clients that span processes: the key-value store through which they find each other, the devices of all of them, and
// launches that are the same on all.

typedef void* (*callback_error)(int code, const char* message, size_t size);

typedef struct {
	size_t          struct_size; // XLA leaves it unset
	void*           extension_start;
	const char*     key;
	size_t          key_size;
	int             timeout_in_ms;
	callback_error* error;
	void*           user_arg;
	char*           value; // out
	size_t          value_size; // out
	void (*value_deleter)(char*); // out, always
} get_args;

typedef struct {
	size_t          struct_size;
	void*           extension_start;
	const char*     key;
	size_t          key_size;
	callback_error* error;
	void*           user_arg;
	char*           value; // out
	size_t          value_size; // out
	void (*value_deleter)(char*); // out, always
} try_get_args;

typedef struct {
	size_t          struct_size;
	void*           extension_start;
	const char*     key;
	size_t          key_size;
	const char*     value;
	size_t          value_size;
	callback_error* error;
	void*           user_arg;
} put_args;

static void free_value(char* value) { free(value); }

// answer makes PJRT's error of a message, which it frees; NULL of none.
static void* answer(callback_error* error, int code, char* message) {
	if (message == NULL) {
		return NULL;
	}
	void* made = (*error)(code, message, strlen(message));
	free(message);
	return made;
}

enum { NOT_FOUND = 5, DEADLINE_EXCEEDED = 4, INTERNAL = 13, NO_TIMEOUT = -1 };

void* fewstep_key_get(void* args) {
	get_args* a = args;
	a->value_deleter = free_value;
	a->value = NULL;
	a->value_size = 0;
	return answer(a->error, DEADLINE_EXCEEDED, fewstepKeyGet((uintptr_t)a->user_arg, (char*)a->key, a->key_size, a->timeout_in_ms, &a->value, &a->value_size));
}

void* fewstep_key_try_get(void* args) {
	try_get_args* a = args;
	a->value_deleter = free_value;
	a->value = NULL;
	a->value_size = 0;
	return answer(a->error, NOT_FOUND, fewstepKeyGet((uintptr_t)a->user_arg, (char*)a->key, a->key_size, NO_TIMEOUT, &a->value, &a->value_size));
}

void* fewstep_key_put(void* args) {
	put_args* a = args;
	return answer(a->error, INTERNAL, fewstepKeyPut((uintptr_t)a->user_arg, (char*)a->key, a->key_size, (char*)a->value, a->value_size));
}

typedef struct {
	size_t       struct_size;
	void*        extension_start;
	void*        client;
	void* const* devices; // out
	size_t       count;   // out
} devices_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  description;
	int    number; // out
} number_args;

// number_of asks for a device's id or process.
static void* number_of(const fewstep_table* real, void* device, int function, int* number) {
	fewstep_get_args description = {.struct_size = sizeof description, .of = device};
	void* error = real->functions[FEWSTEP_DEVICE_DESCRIPTION](&description);
	if (error != NULL) {
		return error;
	}
	// The size that the interface counts ends with the last field, without padding.
	number_args n = {.struct_size = offsetof(number_args, number) + sizeof(int), .description = description.got};
	error = real->functions[function](&n);
	*number = n.number;
	return error;
}

char* fewstep_devices(const fewstep_table* real, void* client, bool all, fewstep_device* out, size_t* count) {
	devices_args a = {.struct_size = sizeof a, .client = client};
	void* error = real->functions[all ? FEWSTEP_CLIENT_DEVICES : FEWSTEP_CLIENT_ADDRESSABLE_DEVICES](&a);
	for (size_t i = 0; error == NULL && i < a.count && i < *count; i++) {
		error = number_of(real, a.devices[i], FEWSTEP_DESCRIPTION_ID, &out[i].id);
		if (error == NULL) {
			error = number_of(real, a.devices[i], FEWSTEP_DESCRIPTION_PROCESS, &out[i].process);
		}
	}
	if (error != NULL) {
		return fewstep_take_message(real, error);
	}
	*count = a.count;
	return NULL;
}
