// The part of PJRT's C interface (OpenXLA, xla/pjrt/c/pjrt_c_api.h) that fewstep calls itself. The interface is
// stable: fields and functions are only ever added at the end, and every struct carries its size.
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
	FEWSTEP_CLIENT_CREATE = 10,
	FEWSTEP_CLIENT_ADDRESSABLE_DEVICES = 16,
	FEWSTEP_DEVICE_MEMORY_STATS = 34,
	FEWSTEP_TABLE_NEEDED = 35,
};

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

// Copies a plugin's table, with client creation watched; NULL where the table lacks a needed function.
fewstep_table* fewstep_table_copy(const void* api);

// The client created last by any copied table, once; NULL when there is none. Calls are serialised by the caller.
void* fewstep_take_created_client(void);

// Fills stats for one addressable device of a client. Returns NULL, or a message that the caller frees.
char* fewstep_device_memory(const fewstep_table* table, void* client, size_t device, fewstep_memory_stats* stats);

#endif
