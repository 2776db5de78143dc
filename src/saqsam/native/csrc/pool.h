// Work shared among threads that sleep while there is none.
#pragma once
#include <stdint.h>

// Calls work(context, 0 .. count - 1), each once, by up to `threads` threads, this one among them.
void run_parallel(int64_t count, int threads, void (*work)(void* context, int64_t index), void* context);

// Memory of this thread that is kept for its next task, at least `bytes` of it, aligned to a cache line.
void* thread_scratch(int64_t bytes);
