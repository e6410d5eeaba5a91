/* Compiled models of QPC in C: what `compiled.save(folder)` wrote, loaded and called without Python.
 *
 * A saved model is a folder:
 *
 *     manifest.json         what the model is, one JSON object:
 *         "abi"             the number of all that is said here: QPC_ABI
 *         "target"          "triple" and "features" (LLVM's names) of the CPU that the code needs
 *         "threads"         how many threads a call may use
 *         "signature"       "names" of the inputs; "inputs": for each batch size, as text, a list of
 *                           {"shape": [...], "dtype": "float32"}; "outputs": how they are nested
 *         "entries"         for each batch size: "name" of the function, "weights" it reads, by
 *                           name, "outputs" it writes, "arena": bytes of memory that it needs
 *         "places"          weights that are stored as int8 and become int16: 1 where they do as they
 *                           are, 16 or 36 for kernels of 3 x 3: how many values each becomes
 *         "files"           "sha256" and "bytes" of the other two
 *     weights.safetensors   the constant tensors
 *     kernels.so            the code: a shared library that needs nothing but libm and libc
 *
 * A function of the library takes a table of addresses, of 64 bits each, and returns 0:
 *
 *     int run_1(const uint64_t *table);
 *     table = { arena, inputs..., outputs..., weights..., 0 }
 *
 * The arena begins at a multiple of 64; everything else at a multiple of the size of its elements.
 * Tensors lie in C order, without gaps. Whoever calls with arenas of their own may call at the same
 * time, from several threads: the library keeps nothing. A model that was compiled for several
 * threads does all of its work in the calling one, unless that has a pool: see `qpc_pool`.
 *
 * Loading a model is running a program: hashes find damage, not intent. This reader checks the
 * number, the sizes and the CPU's architecture (by the loader), and no hashes.
 */
#ifndef QPC_MODEL_H
#define QPC_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QPC_ABI 2 /* and models with 1 */

typedef struct {
    char dtype[16];   /* "float32", "uint8", ... */
    int axes;
    int64_t shape[8];
    size_t bytes;
} qpc_tensor;

typedef struct {
    long batch;
    int inputs, outputs;
    qpc_tensor *input, *output;
    size_t arena_bytes;
    /* the rest belongs to the functions below */
    int weights;
    const void **weight;
    int (*run)(const uint64_t *table);
} qpc_entry;

typedef struct {
    int threads;
    int entries;
    qpc_entry *entry; /* one for each batch size */
    /* the rest belongs to the functions below */
    void *library, *file;
    size_t file_bytes;
    void **made; /* weights that were computed */
    int made_count;
} qpc_model;

/* Loads the model in a folder. Returns NULL, and says why in `error` (of `size` bytes), if it
 * cannot. */
qpc_model *qpc_load(const char *folder, char *error, size_t size);

/* The entry for a batch size, or NULL. */
const qpc_entry *qpc_entry_for(const qpc_model *model, long batch);

/* Runs an entry: addresses of all inputs and outputs, and an arena of entry->arena_bytes that
 * begins at a multiple of 64 (aligned_alloc). Returns 0, -1 for a wrong arena, or another number if
 * a kernel failed. */
int qpc_run(const qpc_entry *entry, const void *const *inputs, void *const *outputs, void *arena,
            size_t arena_bytes);

void qpc_free(qpc_model *model);

/* Several threads for one call, where the model was compiled for them.
 *
 * The memory of a pool is 128 bytes of zeros, at a multiple of 64. Set `threads` and `looks`, then
 * start threads - 1 threads that each call qpc_work(pool, number), with numbers from 1 up; they
 * return after qpc_stop(pool). A thread uses the pool if its address is the value of a key (see
 * pthread_key_create, pthread_setspecific) that is stored in the library's variable. One thread at a
 * time may use a pool. Results do not depend on it.
 *
 *     extern unsigned qpc_pool_key;               a symbol of the library; ~0u until it is set
 *     int qpc_work(void *pool, int number);
 *     int qpc_stop(void *pool);
 */
typedef struct {
    uint32_t rounds, sleeping, stop;
    uint32_t threads; /* with the one that calls */
    uint32_t looks;   /* how often to look for work, or for the end of it, before sleeping: 1000 */
    uint32_t others[27];
} qpc_pool;

/* A pool of model->threads threads for the calling thread, or NULL where there can be none. */
typedef struct qpc_team qpc_team;
qpc_team *qpc_start_threads(const qpc_model *model);
void qpc_stop_threads(qpc_team *team);

#ifdef __cplusplus
}
#endif
#endif
