/* Runs a .tflite file on raw inputs through LiteRT's C interface, to compare what a device gives with what is given here.
 *
 *     litert_runner LIBRARY MODEL --input NAME=FILE ... --output NAME=FILE ... [--threads N] [--warmup N] [--runs N]
 *
 * LIBRARY is libLiteRt.so, opened at run time, so that one program serves any build of it and nothing is linked. NAME is a
 * tensor's in the model's first signature, FILE holds exactly its bytes; every input needs one, outputs as wanted.
 * Printed are lines of `key value`: one `input` and one `output` for each tensor (index, bytes, name), `compile_us`, one
 * `run_us` for each timed run, `accelerated 0|1`, and `done` last, without which a reader must take the run as failed.
 *
 * Exit codes: 0 done, 2 bad usage or a file that is not there or of another size, 3 the library cannot be opened or lacks
 * a function, 4 LiteRT refused (which call, and its status).
 *
 * The few declarations below are of our own writing, after LiteRT 2's public interface. The library is not told how big
 * our structures are, so the two that it fills in are given more room than it needs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_TENSORS 16
#define ALIGNMENT 64 /* what LiteRT asks of host memory */
#define ON_CPU 1

typedef void *handle;
typedef int status;

/* A tensor's type as LiteRT fills it in: element type, rank, dimensions, strides. Passed on untouched, never read. */
typedef struct {
    uint64_t opaque[32];
} tensor_type;

/* The CPU is asked for a number of threads by an opaque option, whose payload is TOML in LiteRT 2.3. */
static void release(void *payload) { free(payload); }

static struct {
    status (*LiteRtCreateEnvironment)(int, const void *, handle *);
    status (*LiteRtCreateModelFromFile)(handle, const char *, handle *);
    status (*LiteRtCreateOptions)(handle *);
    status (*LiteRtSetOptionsHardwareAccelerators)(handle, int);
    status (*LiteRtCreateOpaqueOptions)(const char *, void *, void (*)(void *), handle *);
    status (*LiteRtAddOpaqueOptions)(handle, handle);
    status (*LiteRtCreateCompiledModel)(handle, handle, handle, handle *);
    status (*LiteRtCompiledModelIsFullyAccelerated)(handle, _Bool *);
    status (*LiteRtGetModelSignature)(handle, size_t, handle *);
    status (*LiteRtGetNumSignatureInputs)(handle, size_t *);
    status (*LiteRtGetNumSignatureOutputs)(handle, size_t *);
    status (*LiteRtGetSignatureInputName)(handle, size_t, const char **);
    status (*LiteRtGetSignatureOutputName)(handle, size_t, const char **);
    status (*LiteRtGetSignatureInputTensorByIndex)(handle, size_t, handle *);
    status (*LiteRtGetSignatureOutputTensorByIndex)(handle, size_t, handle *);
    status (*LiteRtGetRankedTensorType)(handle, tensor_type *);
    status (*LiteRtGetCompiledModelInputBufferRequirements)(handle, size_t, size_t, handle *);
    status (*LiteRtGetCompiledModelOutputBufferRequirements)(handle, size_t, size_t, handle *);
    status (*LiteRtCreateManagedTensorBufferFromRequirements)(handle, const tensor_type *, handle, handle *);
    status (*LiteRtGetTensorBufferPackedSize)(handle, size_t *);
    status (*LiteRtLockTensorBuffer)(handle, void **, int);
    status (*LiteRtUnlockTensorBuffer)(handle);
    status (*LiteRtRunCompiledModel)(handle, size_t, size_t, handle *, size_t, handle *);
} api;

static void stop(int code, const char *what, const char *about, long number) {
    fflush(stdout);
    fprintf(stderr, "litert_runner: %s %s (%ld)\n", what, about, number);
    exit(code);
}

static void open_library(const char *path) {
    handle library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) stop(3, "cannot open the library:", dlerror(), 0);
#define FIND(name) \
    if (!(*(void **)&api.name = dlsym(library, #name))) stop(3, "the library has no", #name, 0)
    FIND(LiteRtCreateEnvironment);
    FIND(LiteRtCreateModelFromFile);
    FIND(LiteRtCreateOptions);
    FIND(LiteRtSetOptionsHardwareAccelerators);
    FIND(LiteRtCreateOpaqueOptions);
    FIND(LiteRtAddOpaqueOptions);
    FIND(LiteRtCreateCompiledModel);
    FIND(LiteRtCompiledModelIsFullyAccelerated);
    FIND(LiteRtGetModelSignature);
    FIND(LiteRtGetNumSignatureInputs);
    FIND(LiteRtGetNumSignatureOutputs);
    FIND(LiteRtGetSignatureInputName);
    FIND(LiteRtGetSignatureOutputName);
    FIND(LiteRtGetSignatureInputTensorByIndex);
    FIND(LiteRtGetSignatureOutputTensorByIndex);
    FIND(LiteRtGetRankedTensorType);
    FIND(LiteRtGetCompiledModelInputBufferRequirements);
    FIND(LiteRtGetCompiledModelOutputBufferRequirements);
    FIND(LiteRtCreateManagedTensorBufferFromRequirements);
    FIND(LiteRtGetTensorBufferPackedSize);
    FIND(LiteRtLockTensorBuffer);
    FIND(LiteRtUnlockTensorBuffer);
    FIND(LiteRtRunCompiledModel);
#undef FIND
}

/* Call a function of the library and end with its name and status if it refuses. */
#define CALL(name, ...)                                   \
    do {                                                  \
        status found = api.name(__VA_ARGS__);             \
        if (found) stop(4, "refused by", #name, found);   \
    } while (0)

static double now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

/* Copy a file into a tensor, or a tensor into a file. */
static void transfer(handle buffer, const char *path, int writes_file) {
    size_t bytes = 0;
    void *memory = NULL;
    CALL(LiteRtGetTensorBufferPackedSize, buffer, &bytes);
    CALL(LiteRtLockTensorBuffer, buffer, &memory, writes_file ? 0 : 1); /* 0: to read from, 1: to write to */
    FILE *file = fopen(path, writes_file ? "wb" : "rb");
    if (!file) stop(2, "cannot open", path, 0);
    if (writes_file) {
        if (fwrite(memory, 1, bytes, file) != bytes || fclose(file)) stop(2, "cannot write", path, (long)bytes);
    } else {
        size_t found = fread(memory, 1, bytes, file);
        if (found == bytes && fgetc(file) != EOF) found++;
        if (found != bytes) stop(2, "an input file is not of its tensor's size in bytes:", path, (long)bytes);
        fclose(file);
    }
    CALL(LiteRtUnlockTensorBuffer, buffer);
}

/* The FILE of the word NAME=FILE that is for `name`; NULL if none is. A word is used up once it was found. */
static const char *file_for(const char *name, const char **words, size_t count) {
    size_t length = strlen(name);
    for (size_t i = 0; i < count; i++) {
        if (words[i] && !strncmp(words[i], name, length) && words[i][length] == '=') {
            const char *file = words[i] + length + 1;
            words[i] = NULL;
            return file;
        }
    }
    return NULL;
}

static void all_used(const char **words, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (words[i]) stop(2, "the model has no tensor for", words[i], 0);
}

static long number_of(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 0) stop(2, "expected a number, found", text, 0);
    return value;
}

int main(int count, char **words) {
    const char *inputs[MOST_TENSORS], *outputs[MOST_TENSORS];
    size_t given = 0, wanted = 0;
    long threads = 1, warmup = 0, runs = 1;
    if (count < 3) stop(2, "usage:", "litert_runner LIBRARY MODEL --input NAME=FILE ... --output NAME=FILE ...", count);
    for (int i = 3; i < count; i += 2) {
        if (i + 1 == count) stop(2, "a value is missing after", words[i], 0);
        if (!strcmp(words[i], "--input") && given < MOST_TENSORS) inputs[given++] = words[i + 1];
        else if (!strcmp(words[i], "--output") && wanted < MOST_TENSORS) outputs[wanted++] = words[i + 1];
        else if (!strcmp(words[i], "--threads")) threads = number_of(words[i + 1]);
        else if (!strcmp(words[i], "--warmup")) warmup = number_of(words[i + 1]);
        else if (!strcmp(words[i], "--runs")) runs = number_of(words[i + 1]);
        else stop(2, "unknown word:", words[i], 0);
    }
    open_library(words[1]);

    handle environment, model, options, compiled, signature;
    CALL(LiteRtCreateEnvironment, 0, NULL, &environment);
    CALL(LiteRtCreateModelFromFile, environment, words[2], &model);
    CALL(LiteRtCreateOptions, &options);
    CALL(LiteRtSetOptionsHardwareAccelerators, options, ON_CPU);
    char *payload = NULL;
    handle cpu;
    if (asprintf(&payload, "num_threads = %ld\n", threads) < 0) stop(2, "no memory for", "options", 0);
    CALL(LiteRtCreateOpaqueOptions, "xnnpack", payload, release, &cpu);
    CALL(LiteRtAddOpaqueOptions, options, cpu);
    double began = now_us();
    CALL(LiteRtCreateCompiledModel, environment, model, options, &compiled);
    printf("compile_us %.1f\n", now_us() - began);
    _Bool accelerated = 0;
    CALL(LiteRtCompiledModelIsFullyAccelerated, compiled, &accelerated);
    printf("accelerated %d\n", accelerated);

    size_t takes = 0, gives = 0;
    CALL(LiteRtGetModelSignature, model, 0, &signature);
    CALL(LiteRtGetNumSignatureInputs, signature, &takes);
    CALL(LiteRtGetNumSignatureOutputs, signature, &gives);
    if (takes > MOST_TENSORS || gives > MOST_TENSORS) stop(2, "more tensors than", "this program takes", MOST_TENSORS);

    handle taken[MOST_TENSORS], made[MOST_TENSORS];
    const char *written[MOST_TENSORS];
    for (size_t i = 0; i < takes + gives; i++) {
        int out = i >= takes;
        size_t index = out ? i - takes : i, bytes = 0;
        const char *name = NULL;
        handle tensor, needs, *buffer = out ? &made[index] : &taken[index];
        tensor_type type;
        memset(&type, 0, sizeof type);
        if (out) {
            CALL(LiteRtGetSignatureOutputName, signature, index, &name);
            CALL(LiteRtGetSignatureOutputTensorByIndex, signature, index, &tensor);
            CALL(LiteRtGetCompiledModelOutputBufferRequirements, compiled, 0, index, &needs);
        } else {
            CALL(LiteRtGetSignatureInputName, signature, index, &name);
            CALL(LiteRtGetSignatureInputTensorByIndex, signature, index, &tensor);
            CALL(LiteRtGetCompiledModelInputBufferRequirements, compiled, 0, index, &needs);
        }
        CALL(LiteRtGetRankedTensorType, tensor, &type);
        CALL(LiteRtCreateManagedTensorBufferFromRequirements, environment, &type, needs, buffer);
        CALL(LiteRtGetTensorBufferPackedSize, *buffer, &bytes);
        printf("%s %zu %zu %s\n", out ? "output" : "input", index, bytes, name);
        if (out) {
            written[index] = file_for(name, outputs, wanted);
        } else {
            const char *file = file_for(name, inputs, given);
            if (!file) stop(2, "no --input is given for", name, (long)bytes);
            transfer(*buffer, file, 0);
        }
    }
    all_used(inputs, given);
    all_used(outputs, wanted);
    for (long i = 0; i < warmup + runs; i++) {
        began = now_us();
        CALL(LiteRtRunCompiledModel, compiled, 0, takes, taken, gives, made);
        if (i >= warmup) printf("run_us %.1f\n", now_us() - began);
    }
    for (size_t i = 0; i < gives; i++)
        if (written[i]) transfer(made[i], written[i], 1);
    printf("done\n");
    return fflush(stdout) ? 2 : 0; /* the process ends here, and with it all that was opened */
}
