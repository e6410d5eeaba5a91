/* Runs a saved model on files with the bytes of its inputs, and writes files with its outputs:
 *
 *     ./run FOLDER BATCH INPUT... OUTPUT...
 */
#include "qpc_model.h"

#include <stdio.h>
#include <stdlib.h>

static void *room(const qpc_tensor *tensor) {
    return aligned_alloc(64, (tensor->bytes + 64) / 64 * 64);
}

static int move(const char *path, const char *mode, void *bytes, size_t size) {
    FILE *file = fopen(path, mode);
    if (!file) return 0;
    size_t moved = *mode == 'r' ? fread(bytes, 1, size, file) : fwrite(bytes, 1, size, file);
    return fclose(file) == 0 && moved == size;
}

int main(int argc, char **argv) {
    char error[512];
    if (argc < 3) return fprintf(stderr, "usage: %s FOLDER BATCH INPUT... OUTPUT...\n", argv[0]), 2;
    qpc_model *model = qpc_load(argv[1], error, sizeof error);
    if (!model) return fprintf(stderr, "%s\n", error), 1;
    const qpc_entry *entry = qpc_entry_for(model, atol(argv[2]));
    if (!entry) return fprintf(stderr, "the model takes no batches of %s\n", argv[2]), 1;
    if (argc != 3 + entry->inputs + entry->outputs)
        return fprintf(stderr, "the model has %d inputs and %d outputs\n", entry->inputs, entry->outputs), 1;
    const void *inputs[entry->inputs + 1];
    void *outputs[entry->outputs + 1];
    for (int i = 0; i < entry->inputs; i++) {
        void *input = room(&entry->input[i]);
        if (!input || !move(argv[3 + i], "rb", input, entry->input[i].bytes))
            return fprintf(stderr, "%s: %zu bytes are needed\n", argv[3 + i], entry->input[i].bytes), 1;
        inputs[i] = input;
    }
    for (int i = 0; i < entry->outputs; i++) outputs[i] = room(&entry->output[i]);
    size_t size = (entry->arena_bytes + 64) / 64 * 64;
    void *arena = aligned_alloc(64, size);
    qpc_team *team = qpc_start_threads(model); /* NULL: all work is done in this thread */
    int code = arena ? qpc_run(entry, inputs, outputs, arena, size) : -1;
    qpc_stop_threads(team);
    if (code) return fprintf(stderr, "the model failed with %d\n", code), 1;
    for (int i = 0; i < entry->outputs; i++)
        if (!move(argv[3 + entry->inputs + i], "wb", outputs[i], entry->output[i].bytes))
            return fprintf(stderr, "%s cannot be written\n", argv[3 + entry->inputs + i]), 1;
    for (int i = 0; i < entry->inputs; i++) free((void *)inputs[i]);
    for (int i = 0; i < entry->outputs; i++) free(outputs[i]);
    free(arena);
    qpc_free(model);
    return 0;
}
