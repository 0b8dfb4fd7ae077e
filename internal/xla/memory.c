#include "pjrt_table.h"

#include <stdlib.h>
#include <string.h>

// Buffers in a chosen memory of their device. go-xla knows devices only; so the thread that calls it says beforehand in
// which memory the next buffer is to lie.

typedef struct {
	size_t       struct_size;
	void*        extension_start;
	void*        device;
	void* const* memories; // out
	size_t       count;    // out
} device_memories_args;

typedef struct {
	size_t      struct_size;
	void*       extension_start;
	void*       memory;
	const char* kind; // out
	size_t      size; // out
} memory_kind_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  buffer;
	void*  to;     // a device or a memory
	void*  result; // out
} copy_args;

typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  event;
} event_args;

static _Thread_local struct {
	int                  where;
	bool                 done;
	const fewstep_table* real;
	void*                ready;
} place;

void fewstep_place(int where) {
	place.where = where;
	place.done = false;
	place.real = NULL;
	place.ready = NULL;
}

bool fewstep_placed(const fewstep_table** real, void** ready) {
	*real = place.real;
	*ready = place.ready;
	place.ready = NULL;
	return place.done;
}

static const char pinned[] = "pinned_host";

void* fewstep_destination(const fewstep_table* real, void* device) {
	void* found = NULL;
	if (place.where == FEWSTEP_ON_DEVICE) {
		fewstep_get_args a = {.struct_size = sizeof a, .of = device};
		void* error = real->functions[FEWSTEP_DEVICE_DEFAULT_MEMORY](&a);
		found = error == NULL ? a.got : NULL;
		fewstep_drop(real, error);
	} else if (place.where == FEWSTEP_PINNED_HOST) {
		device_memories_args a = {.struct_size = sizeof a, .device = device};
		void* error = real->functions[FEWSTEP_DEVICE_MEMORIES](&a);
		for (size_t i = 0; error == NULL && found == NULL && i < a.count; i++) {
			memory_kind_args k = {.struct_size = sizeof k, .memory = a.memories[i]};
			error = real->functions[FEWSTEP_MEMORY_KIND](&k);
			if (error == NULL && k.size == sizeof pinned - 1 && memcmp(k.kind, pinned, k.size) == 0) {
				found = a.memories[i];
			}
		}
		fewstep_drop(real, error);
	}
	place.done = found != NULL;
	return found;
}

void* fewstep_copy(const fewstep_table* real, void* args) {
	copy_args* a = args;
	void* memory = fewstep_destination(real, a->to);
	if (memory == NULL) {
		return real->functions[FEWSTEP_BUFFER_COPY_TO_DEVICE](args);
	}
	copy_args c = {.struct_size = sizeof c, .buffer = a->buffer, .to = memory};
	void* error = real->functions[FEWSTEP_BUFFER_COPY_TO_MEMORY](&c);
	if (error != NULL) {
		return error;
	}
	a->result = c.result;
	if (place.where != FEWSTEP_PINNED_HOST) {
		return NULL; // whoever needs it on the device is queued behind it
	}
	fewstep_get_args ready = {.struct_size = sizeof ready, .of = c.result};
	error = real->functions[FEWSTEP_BUFFER_READY_EVENT](&ready);
	fewstep_drop(real, error); // without an event nobody waits, and whoever reads the copy is told
	place.real = real;
	place.ready = error == NULL ? ready.got : NULL;
	return NULL;
}

char* fewstep_await(const fewstep_table* real, void* event) {
	event_args e = {.struct_size = sizeof e, .event = event};
	void* error = real->functions[FEWSTEP_EVENT_AWAIT](&e);
	char* message = error == NULL ? NULL : fewstep_take_message(real, error);
	fewstep_drop(real, real->functions[FEWSTEP_EVENT_DESTROY](&e));
	return message;
}
