/* See qpc_model.h. Linux with glibc, C11. */
#define _GNU_SOURCE
#include "qpc_model.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- JSON: enough to find things in it; every position is a place in a text that ends with 0 ---- */

static const char *blank(const char *at) {
    while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') at++;
    return at;
}

static const char *after_text(const char *at) {
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && at[1]) at++;
    return *at ? at + 1 : at;
}

/* Behind the value that begins here. */
static const char *after(const char *at) {
    int depth = 0;
    do {
        at = blank(at);
        if (!*at) return at;
        if (*at == '"') { at = after_text(at); continue; }
        if (*at == '{' || *at == '[') depth++;
        if (*at == '}' || *at == ']') depth--;
        at++;
        if (!depth && strchr("}],", at[-1]) == NULL)
            while (*at && !strchr(",}] \n\r\t", *at)) at++;
    } while (depth > 0);
    return at;
}

/* The value of an entry of the object that begins here, or NULL. */
static const char *get(const char *at, const char *name) {
    if (!at || *(at = blank(at)) != '{') return NULL;
    at = blank(at + 1);
    while (*at == '"') {
        const char *key = at + 1, *end = after_text(at);
        const char *value = blank(end);
        if (*value != ':') return NULL;
        value = blank(value + 1);
        if ((size_t)(end - key - 1) == strlen(name) && !strncmp(key, name, strlen(name)))
            return value;
        at = blank(after(value));
        if (*at == ',') at = blank(at + 1);
    }
    return NULL;
}

/* The first element of a list or entry of an object, or NULL if there is none. */
static const char *first(const char *at) {
    if (!at || (*(at = blank(at)) != '[' && *at != '{')) return NULL;
    at = blank(at + 1);
    return *at == ']' || *at == '}' ? NULL : at;
}

/* The next one, behind an element that begins here. */
static const char *next(const char *at) {
    at = blank(after(at));
    return *at == ',' ? blank(at + 1) : NULL;
}

static int count(const char *list) {
    int n = 0;
    for (const char *at = first(list); at; at = next(at)) n++;
    return n;
}

static int number(const char *at, int64_t *value) {
    char *end;
    if (!at) return 0;
    *value = strtoll(at, &end, 10);
    return end != at && *value >= 0;
}

/* Copies the text that begins here; 0 if it is none, or too long. */
static int text(const char *at, char *to, size_t size) {
    if (!at || *at != '"') return 0;
    size_t length = (size_t)(after_text(at) - at) - 2;
    if (length >= size) return 0;
    memcpy(to, at + 1, length);
    to[length] = 0;
    return 1;
}

/* --- weights -------------------------------------------------------------------------------------- */

/* The transforms of minimal filtering (Winograd), whose kernels are stored as 3 x 3. */
static const int two[4][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
static const int four[6][3] = {{6, 0, 0}, {-4, -4, -4}, {-4, 4, -4}, {1, 2, 4}, {1, -2, 4}, {0, 0, 12}};

/* taps[units][9][rest] -> places[units][size * size][rest] */
static int16_t *spread(const int8_t *taps, size_t units, size_t rest, int size) {
    const int(*rows)[3] = size == 4 ? two : four;
    int16_t *made = aligned_alloc(64, (units * size * size * rest * 2 + 63) / 64 * 64);
    if (!made) return NULL;
    for (size_t u = 0; u < units; u++)
        for (int p = 0; p < size * size; p++)
            for (size_t r = 0; r < rest; r++) {
                int sum = 0;
                for (int t = 0; t < 9; t++)
                    sum += rows[p / size][t / 3] * rows[p % size][t % 3] * taps[(u * 9 + t) * rest + r];
                made[(u * size * size + p) * rest + r] = (int16_t)sum;
            }
    return made;
}

static int16_t *widened(const int8_t *values, size_t count) {
    int16_t *made = aligned_alloc(64, (count * 2 + 63) / 64 * 64);
    for (size_t i = 0; made && i < count; i++) made[i] = values[i];
    return made;
}

static const void *find_weight(qpc_model *model, const char *name, const char *places) {
    const char *bytes = model->file, *about, *shape, *at;
    uint64_t header;
    int64_t begin, end, axis, size;
    memcpy(&header, bytes, 8);
    char *described = strndup(bytes + 8, header);
    if (!described) return NULL;
    const void *found = NULL;
    about = get(described, name);
    at = first(get(about, "data_offsets"));
    if (at && number(at, &begin) && number(next(at), &end) && begin <= end &&
        (uint64_t)end <= model->file_bytes - 8 - header) {
        found = bytes + 8 + header + begin;
        if (number(get(places, name), &size)) {
            size_t units = 0, rest = 1;
            shape = first(get(about, "shape"));
            for (int i = 0; shape && number(shape, &axis); shape = next(shape), i++) {
                if (i == 0) units = axis;
                if (i > 1) rest *= axis;
            }
            int fits = units * 9 * rest == (size_t)(end - begin);
            int16_t *made = NULL;
            if (size == 1) made = widened(found, (size_t)(end - begin));
            else if (fits && (size == 16 || size == 36))
                made = spread(found, units, rest, size == 16 ? 4 : 6);
            if (made) model->made[model->made_count++] = made;
            found = made;
        }
    }
    free(described);
    return found;
}

/* --- the CPU --------------------------------------------------------------------------------------- */

#ifdef __x86_64__
static int cpu_has(const char *feature) {
    /* LLVM's names, where Linux has others in /proc/cpuinfo */
    static const char *const other[][2] = {
        {"amx-int8", "amx_int8"}, {"amx-tile", "amx_tile"}, {"avx512vnni", "avx512_vnni"},
        {"avxvnni", "avx_vnni"},  {"bmi", "bmi1"},          {"lzcnt", "abm"},
        {"sse3", "pni"},          {"sse4.1", "sse4_1"},     {"sse4.2", "sse4_2"}};
    char line[8192], wanted[64];
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (!strcmp(feature, other[i][0])) feature = other[i][1];
    snprintf(wanted, sizeof wanted, " %.60s ", feature);
    FILE *file = fopen("/proc/cpuinfo", "r");
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        if (strncmp(line, "flags", 5)) continue;
        line[strcspn(line, "\n")] = ' ';
        found = strstr(line, wanted) != NULL;
    }
    if (file) fclose(file);
    /* Linux gives the registers of AMX to processes that ask: arch_prctl(ARCH_REQ_XCOMP_PERM). */
    if (found && !strcmp(feature, "amx_tile")) found = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return found;
}
#else
static int cpu_has(const char *feature) {
    (void)feature; /* not known here: the code may end with an illegal instruction */
    return 1;
}
#endif

/* --- loading --------------------------------------------------------------------------------------- */

static qpc_model *fail(qpc_model *model, char *error, size_t size, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(error, size, format, values);
    va_end(values);
    qpc_free(model);
    return NULL;
}

static size_t element_bytes(const char *dtype) {
    static const struct { const char *end; size_t bytes; } known[] = {
        {"128", 16}, {"complex64", 8}, {"64", 8}, {"32", 4}, {"16", 2}, {"8", 1},
        {"bool", 1}, {"e4m3fn", 1}, {"e5m2", 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t length = strlen(dtype), part = strlen(known[i].end);
        if (length >= part && !strcmp(dtype + length - part, known[i].end)) return known[i].bytes;
    }
    return 0;
}

static int read_tensors(const char *list, qpc_tensor *to) {
    for (const char *at = first(list); at; at = next(at), to++) {
        if (!text(get(at, "dtype"), to->dtype, sizeof to->dtype)) return 0;
        to->bytes = element_bytes(to->dtype);
        if (!to->bytes) return 0;
        for (const char *size = first(get(at, "shape")); size; size = next(size)) {
            if (to->axes == 8 || !number(size, &to->shape[to->axes])) return 0;
            to->bytes *= (size_t)to->shape[to->axes++];
        }
    }
    return 1;
}

static int read_entry(qpc_model *model, const char *manifest, const char *key, qpc_entry *entry) {
    char batch[16], name[256];
    int64_t arena;
    const char *about = blank(after(key));
    if (!text(key, batch, sizeof batch) || *about != ':') return 0;
    about = blank(about + 1);
    const char *inputs = get(get(get(manifest, "signature"), "inputs"), batch);
    const char *outputs = get(about, "outputs"), *weights = get(about, "weights");
    entry->batch = atol(batch);
    entry->inputs = count(inputs);
    entry->outputs = count(outputs);
    entry->weights = count(weights);
    entry->input = calloc((size_t)entry->inputs + 1, sizeof(qpc_tensor));
    entry->output = calloc((size_t)entry->outputs + 1, sizeof(qpc_tensor));
    entry->weight = calloc((size_t)entry->weights + 1, sizeof(void *));
    if (!entry->input || !entry->output || !entry->weight) return 0;
    if (!read_tensors(inputs, entry->input) || !read_tensors(outputs, entry->output)) return 0;
    if (!number(get(about, "arena"), &arena) || !text(get(about, "name"), name, sizeof name))
        return 0;
    entry->arena_bytes = (size_t)arena;
    *(void **)&entry->run = dlsym(model->library, name);
    if (!entry->run) return 0;
    void **made = realloc(model->made, (model->made_count + entry->weights + 1) * sizeof(void *));
    if (!made) return 0;
    model->made = made;
    const char *at = first(weights);
    for (int i = 0; i < entry->weights; i++, at = next(at)) {
        if (!text(at, name, sizeof name)) return 0;
        entry->weight[i] = find_weight(model, name, get(manifest, "places"));
        if (!entry->weight[i]) return 0;
    }
    return 1;
}

static void *mapped(const char *folder, const char *name, size_t *bytes) {
    char path[4096];
    struct stat about;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    void *memory = MAP_FAILED;
    if (fstat(file, &about) == 0 && about.st_size > 0)
        memory = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    *bytes = (size_t)about.st_size;
    return memory == MAP_FAILED ? NULL : memory;
}

qpc_model *qpc_load(const char *folder, char *error, size_t size) {
    qpc_model *model = calloc(1, sizeof *model);
    size_t bytes = 0;
    int64_t abi, threads, expected;
    char path[4096];
    if (!model) return fail(NULL, error, size, "there is no memory");
    void *document = mapped(folder, "manifest.json", &bytes);
    if (!document) return fail(model, error, size, "%s: there is no manifest.json", folder);
    char *manifest = strndup(document, bytes);
    munmap(document, bytes);
    if (!manifest) return fail(model, error, size, "there is no memory");
#define REFUSE(...) (free(manifest), fail(model, error, size, __VA_ARGS__))
    if (!number(get(manifest, "abi"), &abi) || abi < 1 || abi > QPC_ABI)
        return REFUSE("%s: it is no model with the ABI number %d", folder, QPC_ABI);
    if (!number(get(manifest, "threads"), &threads)) return REFUSE("%s: it is damaged", folder);
    model->threads = (int)threads;
    const char *feature = first(get(get(manifest, "target"), "features"));
    for (; feature; feature = next(feature))
        if (!text(feature, path, sizeof path) || !cpu_has(path))
            return REFUSE("%s: this CPU lacks %.100s", folder, path);
    model->file = mapped(folder, "weights.safetensors", &model->file_bytes);
    const char *about = get(get(manifest, "files"), "weights.safetensors");
    uint64_t header = 0;
    if (model->file && model->file_bytes >= 8) memcpy(&header, model->file, 8);
    if (!number(get(about, "bytes"), &expected) || (size_t)expected != model->file_bytes ||
        header > model->file_bytes - 8)
        return REFUSE("%s: weights.safetensors is damaged or missing", folder);
    snprintf(path, sizeof path, "%s%s/kernels.so", *folder == '/' ? "" : "./", folder);
    model->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!model->library) return REFUSE("%s", dlerror());
    const char *entries = get(manifest, "entries");
    for (const char *key = first(entries); key; key = next(blank(after(key)) + 1)) model->entries++;
    model->entry = calloc((size_t)model->entries + 1, sizeof(qpc_entry));
    const char *key = first(entries);
    for (int i = 0; i < model->entries; i++, key = next(blank(after(key)) + 1))
        if (!model->entry || !read_entry(model, manifest, key, &model->entry[i]))
            return REFUSE("%s: an entry cannot be read", folder);
#undef REFUSE
    free(manifest);
    return model;
}

const qpc_entry *qpc_entry_for(const qpc_model *model, long batch) {
    for (int i = 0; i < model->entries; i++)
        if (model->entry[i].batch == batch) return &model->entry[i];
    return NULL;
}

int qpc_run(const qpc_entry *entry, const void *const *inputs, void *const *outputs, void *arena,
            size_t arena_bytes) {
    if (arena_bytes < entry->arena_bytes || (uintptr_t)arena % 64) return -1;
    uint64_t table[2 + entry->inputs + entry->outputs + entry->weights], *to = table;
    *to++ = (uintptr_t)arena;
    for (int i = 0; i < entry->inputs; i++) *to++ = (uintptr_t)inputs[i];
    for (int i = 0; i < entry->outputs; i++) *to++ = (uintptr_t)outputs[i];
    for (int i = 0; i < entry->weights; i++) *to++ = (uintptr_t)entry->weight[i];
    *to = 0;
    return entry->run(table);
}

void qpc_free(qpc_model *model) {
    if (!model) return;
    for (int i = 0; model->entry && i < model->entries; i++) {
        free(model->entry[i].input);
        free(model->entry[i].output);
        free(model->entry[i].weight);
    }
    for (int i = 0; i < model->made_count; i++) free(model->made[i]);
    if (model->library) dlclose(model->library);
    if (model->file) munmap(model->file, model->file_bytes);
    free(model->made);
    free(model->entry);
    free(model);
}

/* --- threads --------------------------------------------------------------------------------------- */

struct qpc_team {
    qpc_pool *pool;
    pthread_key_t key;
    int (*work)(void *, int), (*stop)(void *);
    int started;
    struct member { qpc_team *team; int number; pthread_t thread; } member[];
};

static void *work(void *given) {
    struct member *member = given;
    member->team->work(member->team->pool, member->number);
    return NULL;
}

qpc_team *qpc_start_threads(const qpc_model *model) {
    unsigned *key = dlsym(model->library, "qpc_pool_key");
    if (!key || model->threads < 2) return NULL;
    int others = model->threads - 1;
    qpc_team *team = calloc(1, sizeof *team + (size_t)others * sizeof(struct member));
    if (!team) return NULL;
    team->pool = aligned_alloc(64, 128);
    *(void **)&team->work = dlsym(model->library, "qpc_work");
    *(void **)&team->stop = dlsym(model->library, "qpc_stop");
    if (!team->pool || pthread_key_create(&team->key, NULL)) {
        free(team->pool);
        free(team);
        return NULL;
    }
    memset(team->pool, 0, 128);
    team->pool->threads = (uint32_t)model->threads;
    team->pool->looks = 1000;
    for (int i = 0; i < others; i++, team->started++) {
        team->member[i] = (struct member){team, i + 1, 0};
        if (pthread_create(&team->member[i].thread, NULL, work, &team->member[i])) {
            qpc_stop_threads(team);
            return NULL;
        }
    }
    *key = team->key;
    pthread_setspecific(team->key, team->pool);
    return team;
}

void qpc_stop_threads(qpc_team *team) {
    if (!team) return;
    pthread_setspecific(team->key, NULL);
    team->stop(team->pool);
    for (int i = 0; i < team->started; i++) pthread_join(team->member[i].thread, NULL);
    pthread_key_delete(team->key);
    free(team->pool);
    free(team);
}
