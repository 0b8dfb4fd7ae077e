// The part of PJRT's C interface (OpenXLA, xla/pjrt/c/pjrt_c_api.h) that fewstep calls itself or stands in for. The
// interface is stable: fields and functions are only ever added at the end, and every struct carries its size.
#ifndef FEWSTEP_PJRT_TABLE_H
#define FEWSTEP_PJRT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Every function takes one struct and returns NULL or an error object.
typedef void* (*fewstep_pjrt_fn)(void* args);

// Places of functions in the table.
enum {
	FEWSTEP_ERROR_DESTROY = 0,
	FEWSTEP_ERROR_MESSAGE = 1,
	FEWSTEP_EVENT_DESTROY = 5,
	FEWSTEP_EVENT_IS_READY = 6,
	FEWSTEP_EVENT_ERROR = 7,
	FEWSTEP_EVENT_AWAIT = 8,
	FEWSTEP_EVENT_ON_READY = 9,
	FEWSTEP_CLIENT_CREATE = 10,
	FEWSTEP_CLIENT_PLATFORM_VERSION = 14,
	FEWSTEP_CLIENT_DEVICES = 15,
	FEWSTEP_CLIENT_ADDRESSABLE_DEVICES = 16,
	FEWSTEP_CLIENT_COMPILE = 20,
	FEWSTEP_BUFFER_FROM_HOST = 22,
	FEWSTEP_DESCRIPTION_ID = 23,
	FEWSTEP_DESCRIPTION_PROCESS = 24,
	FEWSTEP_DESCRIPTION_KIND = 26,
	FEWSTEP_DEVICE_DESCRIPTION = 29,
	FEWSTEP_DEVICE_MEMORIES = 32,
	FEWSTEP_DEVICE_DEFAULT_MEMORY = 33,
	FEWSTEP_DEVICE_MEMORY_STATS = 34,
	FEWSTEP_MEMORY_KIND = 36,
	FEWSTEP_EXECUTABLE_DESTROY = 40,
	FEWSTEP_EXECUTABLE_SERIALIZE = 49,
	FEWSTEP_LOADED_GET_EXECUTABLE = 51,
	FEWSTEP_LOADED_EXECUTE = 55,
	FEWSTEP_DESERIALIZE_AND_LOAD = 56,
	FEWSTEP_BUFFER_COPY_TO_DEVICE = 69,
	FEWSTEP_BUFFER_READY_EVENT = 72,
	FEWSTEP_BUFFER_UNSAFE_POINTER = 73,
	FEWSTEP_BUFFER_OPAQUE_POINTER = 76,
	FEWSTEP_BUFFER_COPY_TO_MEMORY = 92,
	FEWSTEP_EXECUTABLE_MEMORY_STATS = 96,
	FEWSTEP_TABLE_NEEDED = 97,
};

// The interface's major version. Another one may have other places and structs.
enum { FEWSTEP_PJRT_MAJOR = 0 };

typedef struct {
	size_t struct_size;
	void*  extension_start;
	struct {
		size_t struct_size;
		void*  extension_start;
		int    major_version;
		int    minor_version;
	} version;
	fewstep_pjrt_fn functions[];
} fewstep_table;

typedef struct {
	size_t      struct_size;
	void*       extension_start;
	const char* code;
	size_t      code_size;
	const char* format;
	size_t      format_size;
} fewstep_program;

typedef struct {
	size_t                 struct_size;
	void*                  extension_start;
	void*                  client;
	const fewstep_program* program;
	const char*            compile_options; // serialised CompileOptionsProto
	size_t                 compile_options_size;
	void*                  executable; // out
} fewstep_compile_args;

typedef struct {
	size_t  struct_size;
	void*   extension_start;
	void*   device;
	int64_t bytes_in_use;
	int64_t peak_bytes_in_use;
	bool    peak_bytes_in_use_is_set;
	int64_t num_allocs;
	bool    num_allocs_is_set;
	int64_t largest_alloc_size;
	bool    largest_alloc_size_is_set;
	int64_t bytes_limit;
	bool    bytes_limit_is_set;
	int64_t bytes_reserved;
	bool    bytes_reserved_is_set;
	int64_t peak_bytes_reserved;
	bool    peak_bytes_reserved_is_set;
	int64_t bytes_reservable_limit;
	bool    bytes_reservable_limit_is_set;
	int64_t largest_free_block_bytes;
	bool    largest_free_block_bytes_is_set;
	int64_t pool_bytes;
	bool    pool_bytes_is_set;
	int64_t peak_pool_bytes;
	bool    peak_pool_bytes_is_set;
} fewstep_memory_stats;

// Copies a plugin's table. Where layered is set, the copy's execution and small uploads are asynchronous and its
// compilation goes through fewstepCompile (compile.go); creation of clients is watched in any case. NULL where the table is of another major
// version, lacks a needed function, or too many plugins were copied.
fewstep_table* fewstep_table_copy(const void* api, bool layered);

// The client created last by any copied table, once; NULL when there is none. Calls are serialised by the caller.
void* fewstep_take_created_client(void);

// Gives clients that are created from now on a key-value store, by a handle (span.go). 0 = none.
void fewstep_store(uintptr_t handle);

// PJRT's callbacks for such a store.
void* fewstep_key_get(void* args);
void* fewstep_key_try_get(void* args);
void* fewstep_key_put(void* args);

// A device, by the id that programs know it by, and the process that drives it.
typedef struct {
	int id;
	int process;
} fewstep_device;

// Lists a client's devices, those of all processes or its own; *count is the room in out, then the number of devices.
// Returns NULL, or a message that the caller frees.
char* fewstep_devices(const fewstep_table* real, void* client, bool all, fewstep_device* out, size_t* count);

// Says that this thread's next executions are launches of that number over several processes. 0 = they are not.
void fewstep_launch(int number);

// Memories of a device in which a buffer may lie.
enum { FEWSTEP_AS_ASKED = 0, FEWSTEP_ON_DEVICE = 1, FEWSTEP_PINNED_HOST = 2 };

// Says where this thread's next upload or copy to a device is to lie (memory.c). 0 = as the caller asks.
void fewstep_place(int where);

// Says whether that was done since, and hands over the event of the completion of a copy to the host's memory, with
// the table that it belongs to; NULL when there is none.
bool fewstep_placed(const fewstep_table** real, void** ready);

// Waits for an event and destroys it. Returns NULL, or a message that the caller frees.
char* fewstep_await(const fewstep_table* real, void* event);

// Copies a buffer to a device: to the memory that this thread's next copy is to lie in, if one was named.
void* fewstep_copy(const fewstep_table* real, void* args);

// The memory of a device in which this thread's next buffer is to lie. NULL = as asked, or there is no such memory.
void* fewstep_destination(const fewstep_table* real, void* device);

// The text of an error, which is destroyed with it; the caller frees it.
char* fewstep_take_message(const fewstep_table* table, void* error);

// Destroys an error, if it is one.
void fewstep_drop(const fewstep_table* real, void* error);

// Arguments of the functions that give one object of another, such as a device's default memory.
typedef struct {
	size_t struct_size;
	void*  extension_start;
	void*  of;
	void*  got; // out
} fewstep_get_args;

// Fills stats for one addressable device of a client. Returns NULL, or a message that the caller frees.
char* fewstep_device_memory(const fewstep_table* table, void* client, size_t device, fewstep_memory_stats* stats);

// Says what fewstepCompile is to be told by this thread's next compilations: a handle, 0 = nothing (compile.go).
void fewstep_request(uintptr_t handle);

// Compiles as the plugin does, with code and options in place of the program's own. Returns NULL or the plugin's error object.
void* fewstep_compile_code(const fewstep_table* real, fewstep_compile_args* args, const char* code, size_t size, const char* options, size_t options_size);

// Serialises a loaded executable. On success *bytes is the caller's to free; else a message that the caller frees.
char* fewstep_serialize(const fewstep_table* real, void* loaded, char** bytes, size_t* size);

// Loads a serialised executable. Returns NULL, or a message that the caller frees.
char* fewstep_deserialize(const fewstep_table* real, void* client, const char* bytes, size_t size, void** loaded);

// What an executable takes of the device beside its inputs and outputs, in bytes: scratch space. -1 = not told.
int64_t fewstep_scratch_bytes(const fewstep_table* real, void* loaded);

// Names the plugin's build and the first device's kind; the caller frees it. NULL when the plugin does not tell.
char* fewstep_identity(const fewstep_table* real, void* client);

#endif
