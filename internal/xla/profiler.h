#ifndef FEWSTEP_PROFILER_H
#define FEWSTEP_PROFILER_H

#include "pjrt_table.h"

bool fewstep_has_profiler(const fewstep_table* table);

// Starts the plugin's own profiler. Returns NULL, or why not.
const char* fewstep_profile_start(const fewstep_table* table, void** profiler);

// Stops it. On success *bytes, a serialised XSpace, is the caller's to free; else the reason is returned.
const char* fewstep_profile_stop(const fewstep_table* table, void* profiler, char** bytes, size_t* size);

#endif
